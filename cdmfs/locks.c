/* SPDX-License-Identifier: Apache-2.0 */
/* Striped locks, taken in ascending order of their addresses (fs.h "Lock order"). */
#include "cdmfs/fs.h"

static unsigned stripe(uint64_t id, unsigned stripes)
{
	return (unsigned)((id * 0x9e3779b97f4a7c15ull) >> 40) % stripes;
}

static void lock_two(pthread_mutex_t *locks, unsigned stripes, struct stripes *s, uint64_t a, uint64_t b)
{
	pthread_mutex_t *x = a ? &locks[stripe(a, stripes)] : NULL, *y = b ? &locks[stripe(b, stripes)] : NULL;

	if (x > y) {
		pthread_mutex_t *t = x;
		x = y;
		y = t;
	}
	s->count = 0;
	if (x && x != y)
		s->locks[s->count++] = x;
	if (y)
		s->locks[s->count++] = y;
	for (unsigned i = 0; i < s->count; i++)
		pthread_mutex_lock(s->locks[i]);
}

void lock_dirs(struct fs *fs, struct stripes *s, uint64_t a, uint64_t b)
{
	lock_two(fs->dir_locks, DIR_STRIPES, s, a, b);
}

void lock_nodes(struct fs *fs, struct stripes *s, uint64_t a, uint64_t b)
{
	lock_two(fs->node_locks, NODE_STRIPES, s, a, b);
}

void unlock_stripes(struct stripes *s)
{
	while (s->count)
		pthread_mutex_unlock(s->locks[--s->count]);
}
