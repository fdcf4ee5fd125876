/* SPDX-License-Identifier: Apache-2.0 */
/* Either side may be killed between any two stores. What keeps the lanes whole:
 * - A slot is filled, then its state becomes READY, then head moves: the server looks at slots below head only.
 * - A lane's owner is one word (thread id and start time), so a claim is one compare-and-swap. A thread that is gone has no call in
 *   the server any more (the kernel lets a caller go only when its call was answered or dropped), so what it left is void.
 * - Records of finished calls may be overwritten by the next announcement: their caller has returned. */
#include "common/announce.h"

#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#define ANNOUNCE_VERSION 1
#define ALIVE_TRUST_MS 100 /* a thread seen alive is not looked for again so long; ids are not reused that fast */
#define RECORD_HEAD 4      /* u32 length of the encoded change */
#define RECORD_TAIL 2      /* u8 handle length, u8 handle type */

static uint64_t now_ms(void)
{
	struct timespec ts;
	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (uint64_t)ts.tv_sec * 1000 + (uint64_t)ts.tv_nsec / 1000000;
}

/* --- the file --- */

/* Under the file's lock: make it ours, or see that it is. The space is taken now: a full file system must not become a SIGBUS. */
static int prepare(int fd, const char *path, struct cdm_announce_map *m, struct cdm_error *err)
{
	if (m->magic == 0) {
		m->version = ANNOUNCE_VERSION;
		m->lanes = CDM_LANES;
		atomic_thread_fence(memory_order_release);
		m->magic = CDM_ANNOUNCE_MAGIC;
		return 0;
	}
	if (m->magic == CDM_ANNOUNCE_MAGIC && m->version == ANNOUNCE_VERSION && m->lanes == CDM_LANES)
		return 0;
	cdm_fail_plain(err, EPROTO, "%s was made by another version of the programs", path);
	cdm_hint(err, "install one version of cdmfs and cdm-replicator, stop both for this set, remove that file, start them");
	return -EPROTO;
}

static int map_file(int fd, const char *path, struct cdm_announce_map **ret, struct cdm_error *err)
{
	struct stat st;
	if (flock(fd, LOCK_EX) < 0)
		return cdm_fail(err, errno, "lock %s", path);
	if (fstat(fd, &st) < 0)
		return cdm_fail(err, errno, "look at %s", path);
	if ((uint64_t)st.st_size > sizeof **ret) {
		cdm_fail_plain(err, EPROTO, "%s is larger than this version's", path);
		cdm_hint(err, "install one version of cdmfs and cdm-replicator, stop both for this set, remove that file, start them");
		return -EPROTO;
	}
	int r = posix_fallocate(fd, 0, sizeof **ret);
	if (r > 0)
		return cdm_fail(err, r, "make room for %s", path);
	struct cdm_announce_map *m = mmap(NULL, sizeof *m, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	if (m == MAP_FAILED)
		return cdm_fail(err, errno, "map %s", path);
	r = prepare(fd, path, m, err);
	if (r < 0) {
		munmap(m, sizeof *m);
		return r;
	}
	*ret = m;
	return 0;
}

int cdm_announce_open(const char *run_dir, struct cdm_announce_map **ret, struct cdm_error *err)
{
	_cleanup_free_ char *path = NULL;
	if (asprintf(&path, "%s/%s", run_dir, CDM_ANNOUNCE_FILE) < 0)
		return cdm_fail(err, ENOMEM, "open %s", run_dir);
	_cleanup_close_ int fd = open(path, O_RDWR | O_CREAT | O_NOFOLLOW | O_CLOEXEC, 0600);
	if (fd < 0)
		return cdm_fail(err, errno, "open %s", path);
	int r = map_file(fd, path, ret, err);
	flock(fd, LOCK_UN); /* closing would not: the mapping keeps the open file */
	return r;
}

void cdm_announce_close(struct cdm_announce_map **m)
{
	if (*m)
		munmap(*m, sizeof **m);
	*m = NULL;
}

/* --- who owns a lane --- */

static pid_t owner_tid(uint64_t owner)
{
	return (pid_t)(uint32_t)owner;
}

/* The owner word of a thread that lives now; 0 = there is none with this id. */
static uint64_t owner_of(pid_t tid)
{
	char path[32], text[1024];
	snprintf(path, sizeof path, "/proc/%d/stat", (int)tid);
	_cleanup_close_ int fd = open(path, O_RDONLY | O_CLOEXEC);
	if (fd < 0)
		return 0;
	ssize_t n = read(fd, text, sizeof text - 1);
	if (n <= 0)
		return 0;
	text[n] = 0;
	const char *p = strrchr(text, ')'); /* field 2 is the name, which may hold anything; the start time is field 22 */
	char state = p && p[1] ? p[2] : 0;
	if (state == 'Z' || state == 'X')
		return 0;
	for (int field = 2; p && field < 22; field++)
		p = strchr(p + 1, ' ');
	uint64_t started = p ? strtoull(p + 1, NULL, 10) : 0;
	return started << 32 | (uint32_t)tid;
}

static bool is_alive(struct cdm_lane *lane, uint64_t owner)
{
	uint64_t now = now_ms();
	if (now - atomic_load_explicit(&lane->seen_ms, memory_order_relaxed) < ALIVE_TRUST_MS)
		return true;
	if (owner_of(owner_tid(owner)) != owner)
		return false;
	atomic_store_explicit(&lane->seen_ms, now, memory_order_relaxed);
	return true;
}

static struct cdm_announcement *slot_at(struct cdm_lane *lane, uint64_t index)
{
	return &lane->slots[index % CDM_LANE_SLOTS];
}

static uint32_t state_of(struct cdm_announcement *a)
{
	return atomic_load_explicit(&a->state, memory_order_acquire);
}

static bool is_open(uint32_t state)
{
	return state == CDM_AN_READY || state == CDM_AN_BUSY;
}

/* What was announced and not made is void. */
static void withdraw_all(struct cdm_lane *lane)
{
	for (size_t i = 0; i < CDM_LANE_SLOTS; i++)
		if (is_open(state_of(&lane->slots[i])))
			atomic_store_explicit(&lane->slots[i].state, CDM_AN_FREE, memory_order_release);
	atomic_store_explicit(&lane->taken, atomic_load(&lane->head), memory_order_release);
}

struct cdm_lane *cdm_lane_claim(struct cdm_announce_map *m)
{
	uint64_t self = owner_of(gettid());
	if (!self) /* no /proc: who lives cannot be told */
		return NULL;
	for (size_t i = 0; i < CDM_LANES; i++) {
		struct cdm_lane *lane = &m->lane[i];
		uint64_t owner = atomic_load(&lane->owner);
		if (owner && (owner == self || owner_of(owner_tid(owner)) == owner))
			continue;
		if (!atomic_compare_exchange_strong(&lane->owner, &owner, self))
			continue;
		atomic_store(&lane->seen_ms, now_ms());
		withdraw_all(lane);
		return lane;
	}
	return NULL;
}

void cdm_lane_release(struct cdm_lane *lane)
{
	withdraw_all(lane);
	atomic_store(&lane->owner, 0);
}

/* --- replicator --- */

/* Move taken over what is finished or withdrawn; the first open slot's index, or head. */
static uint64_t first_open(struct cdm_lane *lane)
{
	uint64_t head = atomic_load_explicit(&lane->head, memory_order_acquire);
	uint64_t i = atomic_load_explicit(&lane->taken, memory_order_acquire);
	if (head - i > CDM_LANE_SLOTS) /* foreign bytes: never look outside the ring */
		i = head - CDM_LANE_SLOTS;
	while (i < head && !is_open(state_of(slot_at(lane, i))))
		i++;
	return i;
}

static uint32_t record_size(const struct cdm_change *c)
{
	return (uint32_t)(RECORD_HEAD + cdm_change_encoded_max(c) + RECORD_TAIL + c->handle.len);
}

/* Where `size` contiguous bytes are free in the data ring, or -EAGAIN. Live are the records of open announcements. */
static int64_t find_room(struct cdm_lane *lane, uint64_t size)
{
	uint64_t head = atomic_load(&lane->head), live_from = UINT64_MAX, live_to = 0;
	for (uint64_t i = first_open(lane); i < head; i++) {
		const struct cdm_announcement *a = slot_at(lane, i);
		if (!a->record_bytes)
			continue;
		if (live_from == UINT64_MAX)
			live_from = a->record_offset;
		live_to = (uint64_t)a->record_offset + a->record_bytes;
	}
	if (live_from == UINT64_MAX)
		return 0;
	if (live_from < live_to) { /* free: behind it, and before it */
		if (live_to + size <= CDM_LANE_DATA)
			return (int64_t)live_to;
		return size <= live_from ? 0 : -EAGAIN;
	}
	return live_to + size <= live_from ? (int64_t)live_to : -EAGAIN;
}

static uint8_t *put_record(uint8_t *p, const struct cdm_change *c)
{
	uint32_t len = (uint32_t)cdm_change_encode(c, p + RECORD_HEAD);
	memcpy(p, &len, sizeof len);
	p += RECORD_HEAD + len;
	*p++ = c->handle.len;
	*p++ = c->handle.type;
	memcpy(p, c->handle.bytes, c->handle.len);
	return p + c->handle.len;
}

int cdm_lane_announce(struct cdm_lane *lane, const struct cdm_announcement *a, const struct cdm_change *changes, size_t count)
{
	uint64_t size = 0;
	for (size_t i = 0; i < count; i++) {
		assert(changes[i].handle.len <= CDM_HANDLE_MAX);
		size += record_size(&changes[i]);
		if (size > CDM_LANE_DATA)
			return -EMSGSIZE;
	}
	uint64_t head = atomic_load(&lane->head), open = first_open(lane);
	int64_t at = head - open < CDM_LANE_SLOTS ? find_room(lane, size) : -EAGAIN;
	if (at < 0)
		return -EAGAIN;
	atomic_store(&lane->taken, open);
	struct cdm_announcement *slot = slot_at(lane, head);
	atomic_store(&slot->state, CDM_AN_FREE);
	slot->request = 0;
	atomic_thread_fence(memory_order_seq_cst);
	uint8_t *end = lane->data + at;
	for (size_t i = 0; i < count; i++)
		end = put_record(end, &changes[i]);
	struct cdm_announcement filled = *a;
	filled.state = CDM_AN_FREE;
	filled.record_offset = (uint32_t)at;
	filled.record_bytes = (uint32_t)(end - (lane->data + at));
	filled.record_count = (uint32_t)count;
	filled.result = 0;
	filled.request = 0;
	filled.found = (struct cdm_version){0};
	filled.found_exists = filled.found_unsaved = filled.found_is_dir = filled.spare = 0;
	memcpy(slot, &filled, sizeof filled);
	atomic_store_explicit(&slot->state, CDM_AN_READY, memory_order_release);
	atomic_store_explicit(&lane->head, head + 1, memory_order_release);
	return (int)(head % CDM_LANE_SLOTS);
}

enum cdm_announce_state cdm_lane_result(struct cdm_lane *lane, int slot, struct cdm_announcement *ret)
{
	assert(slot >= 0 && slot < CDM_LANE_SLOTS);
	struct cdm_announcement *a = &lane->slots[slot];
	uint32_t state = state_of(a);
	if (is_open(state))
		atomic_store_explicit(&a->state, CDM_AN_FREE, memory_order_release);
	memcpy(ret, a, sizeof *ret);
	ret->state = state;
	return (enum cdm_announce_state)state;
}

/* --- server --- */

struct cdm_lane *cdm_lane_find(struct cdm_announce_map *m, pid_t tid)
{
	for (size_t i = 0; i < CDM_LANES; i++) {
		uint64_t owner = atomic_load_explicit(&m->lane[i].owner, memory_order_acquire);
		if (owner && owner_tid(owner) == tid && is_alive(&m->lane[i], owner))
			return &m->lane[i];
	}
	return NULL;
}

struct cdm_announcement *cdm_lane_peek(struct cdm_lane *lane)
{
	uint64_t i = first_open(lane);
	return i < atomic_load_explicit(&lane->head, memory_order_acquire) ? slot_at(lane, i) : NULL;
}

struct cdm_announcement *cdm_lane_find_request(struct cdm_lane *lane, uint64_t request)
{
	if (request == 0)
		return NULL;
	for (size_t i = 0; i < CDM_LANE_SLOTS; i++) {
		uint32_t state = state_of(&lane->slots[i]);
		if (state != CDM_AN_FREE && state != CDM_AN_READY && lane->slots[i].request == request)
			return &lane->slots[i];
	}
	return NULL;
}

void cdm_lane_taken(struct cdm_lane *lane, struct cdm_announcement *a)
{
	uint64_t open = first_open(lane), taken = atomic_load(&lane->taken);
	assert(a >= lane->slots && a < lane->slots + CDM_LANE_SLOTS);
	while (taken < open && !atomic_compare_exchange_weak(&lane->taken, &taken, open))
		;
}

/* The bytes of one record in [p, end): its change and handle. Behind it, or NULL. */
static const uint8_t *split_record(const uint8_t *p, const uint8_t *end, const uint8_t **ret_change, uint32_t *ret_len)
{
	uint32_t len;
	if ((size_t)(end - p) < RECORD_HEAD + RECORD_TAIL)
		return NULL;
	memcpy(&len, p, sizeof len);
	p += RECORD_HEAD;
	if (len > (size_t)(end - p) - RECORD_TAIL)
		return NULL;
	*ret_change = p;
	*ret_len = len;
	p += len;
	uint8_t handle_len = p[0];
	if (handle_len > CDM_HANDLE_MAX || handle_len > (size_t)(end - p) - RECORD_TAIL)
		return NULL;
	return p + RECORD_TAIL + handle_len;
}

int cdm_lane_record(const struct cdm_lane *lane, const struct cdm_announcement *a, size_t index, struct cdm_change *ret)
{
	uint64_t from = a->record_offset, bytes = a->record_bytes;
	if (index >= a->record_count || from > CDM_LANE_DATA || bytes > CDM_LANE_DATA - from)
		return -EBADMSG;
	const uint8_t *p = lane->data + from, *end = p + bytes, *change = NULL;
	uint32_t len = 0;
	for (size_t i = 0; i <= index; i++) {
		p = split_record(p, end, &change, &len);
		if (!p)
			return -EBADMSG;
	}
	int n = cdm_change_decode(change, len, ret);
	if (n < 0)
		return -EBADMSG;
	if ((uint32_t)n != len) {
		cdm_change_fini(ret);
		return -EBADMSG;
	}
	const uint8_t *handle = change + len;
	ret->handle.len = handle[0];
	ret->handle.type = handle[1];
	memcpy(ret->handle.bytes, handle + RECORD_TAIL, handle[0]);
	return 0;
}
