/* SPDX-License-Identifier: Apache-2.0 */
/* The set's policy on this node: what stays here, and whether people may write. */
#include "cdmfs/fs.h"

#include <errno.h>
#include "common/log.h"

int policy_reload(struct fs *fs, struct cdm_error *err)
{
	struct cdm_policy fresh = {0};
	int r = cdm_policy_load(fs->conf, fs->set, &fresh, err);

	if (r < 0)
		return r;
	pthread_rwlock_wrlock(&fs->policy_lock);
	struct cdm_policy old = fs->policy;
	fs->policy = fresh;
	pthread_rwlock_unlock(&fs->policy_lock);
	atomic_store(&fs->read_only, fresh.read_only);
	cdm_policy_fini(&old);
	cdm_log(policy_loaded, cdm_uint("epoch", fresh.epoch), cdm_str("mode", fresh.read_only ? "read-only" : "read-write"));
	return 0;
}

bool policy_is_local(struct fs *fs, const char *path, size_t len)
{
	bool local;

	pthread_rwlock_rdlock(&fs->policy_lock);
	local = cdm_filter_match(&fs->policy.exclude, path, len) || cdm_filter_match(&fs->policy.local, path, len);
	pthread_rwlock_unlock(&fs->policy_lock);
	return local;
}

int path_that_travels(struct fs *fs, uint64_t id, char *buf, size_t room, struct node_path *ret)
{
	int r = inodes_path(fs->nodes, id, 0, buf, room, ret);

	for (unsigned which = 1; r == 0 && ret->place == PLACE_CONTENT && policy_is_local(fs, ret->path, ret->len); which++)
		r = inodes_path(fs->nodes, id, which, buf, room, ret);
	return r == -ENOENT ? inodes_path(fs->nodes, id, 0, buf, room, ret) : r;
}
