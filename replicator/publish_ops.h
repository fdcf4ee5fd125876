/* SPDX-License-Identifier: Apache-2.0 */
/* publish_ops.h — what publish.c (the applier), publish_change.c (one change until it is done), publish_ops.c (staged objects, removals, links),
 * publish_rename.c, and publish_attr.c (attributes, content in place, removal of trees) share. Applier thread. Each apply_ function returns enum apply
 * or -errno. */
#ifndef REPLICATOR_PUBLISH_OPS_H
#define REPLICATOR_PUBLISH_OPS_H

#include <errno.h>
#include "replicator/publish.h"

#define RETRY_MOUNT_MS 500
/* publish.c. False: stopping. wait: for at most ms. wait_for_mount: until the set is mounted. tell_pause: the node says why nothing is applied; "" ends it. */
bool publisher_wait(struct publisher *pub, int64_t ms);
bool publisher_wait_for_mount(struct publisher *pub);
void publisher_tell_pause(struct publisher *pub, const char *code, const char *reason);
/* publish_change.c: until this change is done, left out or set aside. False: stopping. */
bool publisher_work_on(struct publisher *pub, struct incoming *in);
/* publish_records.c: gather a record. skip: nothing was done. done: it is so already, or cannot be done here, but may well be done by those behind.
 * send: to the journal, once; 0 or -errno. flush: until it took them; false: stopping, or it never will. */
void record_skip(struct publisher *pub, struct incoming *in, bool overtaken); /* its content did not come (CDM_CH_OVERTAKEN) */
void record_done(struct publisher *pub, struct incoming *in);
int records_send(struct publisher *pub, struct cdm_error *err);
bool records_flush(struct publisher *pub);

struct cdm_change record_of(struct publisher *pub, struct incoming *in);
void step_init(struct step *step, enum cdm_call call, const struct incoming *in, const struct cdm_change *record);

#define PLACE_TRIES 8
#define AGAIN 100 /* of what makes way: the call once more, as the step says now */
/* Refused unless what is there has this version; none: whatever is there. */
void expect_version(struct step *step, struct cdm_dot dot);
struct two_names {
	int dir, dir2;
	const char *name, *name2;
	unsigned flags;
};
int call_rename(void *arg); /* a struct two_names */
int call_unlink(void *arg);
int call_link(void *arg);
/* Remove what is at a name and keep it in conflicts/; the record, if any, is another step's. */
int keep_away(struct publisher *pub, struct incoming *in, int dir, const char *name);
/* Descriptor of a path's parent; parents that are missing here are brought back. */
int parent_for(struct publisher *pub, struct incoming *in, const char *path, size_t len, char *name, struct cdm_error *err);
/* These say that nothing is at a name; every other error that nothing is known of it. */
static inline bool is_gone(int r)
{
	return r == -ENOENT || r == -ENOTDIR || r == -ELOOP;
}
/* The version of what is at a path here, from the store. 1; 0: nothing there; -errno: it cannot be told. */
int stamp_here(struct publisher *pub, const char *path, size_t len, struct cdm_stamp *ret, struct stat *st);
int apply_rename(struct publisher *pub, struct incoming *in, struct cdm_error *err);

/* Publish a staged tree at parent/name with all its records; 0 or -errno, nothing is visible then. */
int publish_tree(struct publisher *pub, struct incoming *in, const char *staged, int parent, const char *name,
	const struct cdm_change *records, size_t count);
/* assemble.c: publish this MKDIR together with what follows it in its batch below it; how many changes, 0 = not possible. */
size_t assemble_run(struct publisher *pub, struct incoming *top);
int apply_save(struct publisher *pub, struct incoming *in, struct cdm_error *err);
/* Use what the sender has at this path now in place of what came. */
int apply_instead(struct publisher *pub, struct incoming *in, const char *path, size_t len, struct cdm_error *err);
int apply_staged(struct publisher *pub, struct incoming *in, struct cdm_error *err);
/* Ranges (or all) written into the file that is there: base version checked by the server, record with the last step. */
int apply_in_place(struct publisher *pub, struct incoming *in, struct cdm_error *err);
/* publish_names.c: the same by renames, under all names of what is there (open as `old`, of the base version). tidy: after a job, remove what is staged
 * for that and not needed any more; `compared`: a comparison of trees has just given every name what it should have, but for changes still to come. */
int apply_to_names(struct publisher *pub, struct incoming *in, int old, struct cdm_error *err);
/* The same for those names only that do not travel; what is open has the version `along`. */
int apply_with_left_out(struct publisher *pub, struct incoming *in, int old, struct cdm_error *err);
/* Those become names of what is staged under this name, as the change's path2 is about to: that is open. 0 or -errno. */
int link_left_out(struct publisher *pub, struct incoming *in, int old, const char *staged);
void several_tidy(struct publisher *pub, bool compared);
int apply_setattr(struct publisher *pub, struct incoming *in, struct cdm_error *err);
int apply_xattr(struct publisher *pub, struct incoming *in, struct cdm_error *err);
/* A directory that was made here, too: the higher creation's attributes stay. */
int apply_directory_attributes(struct publisher *pub, struct incoming *in);
/* What was not done here was done elsewhere: the directory's mtime is told all the same, so that it ends equal everywhere. */
void raise_parent(struct publisher *pub, struct incoming *in, const char *path, size_t len, int64_t mtime_ns);
/* publish_moved.c: paths of the change as they are here; enum apply other than APPLIED: that is its end. moved_end: as they came. */
int moved_begin(struct publisher *pub, struct incoming *in);
void moved_end(struct publisher *pub, struct incoming *in);
/* What is in one directory goes into another that is the same one in a later state: what that lacks is moved, the rest is there and goes (a different
 * file is kept in conflicts/). 0; -errno: something could not be looked at. */
int moved_merge(struct publisher *pub, struct incoming *in, int from_dir, const char *from_name, int to_dir, const char *to_name);
/* Everything below dir/name goes, as far as it can; local paths stay. 0; -errno: something could not be looked at. */
int remove_below(struct publisher *pub, struct incoming *in, int dir, const char *name);

#endif
