/* SPDX-License-Identifier: Apache-2.0 */
/* registry.h — what the master remembers: the tree of regions, groups and nodes, sets, roles, sections, hand-set and last computed routes, tokens,
 * accounts, events, audit. A store interface: registry.c implements it with SQLite (WAL), another engine may do the same.
 *
 * Threads: the caller's loop thread owns everything here. Changes go through a queue to one writer thread, are committed in groups,
 * and come back to the loop with their answer and a new model; a change that was answered survives a power cut.
 * Reading never touches the database: registry_model() is all of it, valid until the loop runs again. */
#ifndef MASTER_REGISTRY_H
#define MASTER_REGISTRY_H

#include <event2/event.h>
#include <jansson.h>
#include <stdbool.h>
#include <stdint.h>
#include "common/conf.h"
#include "common/error.h"

struct model_region { int64_t id; char *name; size_t groups; };
struct model_group { int64_t id; char *name; size_t region; /* index */ size_t nodes; };
struct model_node {
	uint32_t number;
	char *name, *addr, *serial;
	size_t group; /* index */
	enum cdm_role role; /* what its token allowed */
	uint32_t capacity;
	enum node_state { NODE_ACTIVE, NODE_DRAINED, NODE_REVOKED } state;
	int64_t joined, last_seen; /* Unix seconds; 0 = never */
};
#define MODEL_NONE (-1)
#define MODEL_ROOT (-2)
struct model_set {
	int64_t id;
	char *name, *update, *open;
	bool default_excludes;
	json_t *exclude, *local;         /* arrays of strings */
	json_t *source, *target, *both;  /* as given: names, @group, @region, @all */
	/* per node index: effective role (NONE: not a member; revoked nodes never are), hand-set parent and last computed parent as
	 * indices, MODEL_NONE without, MODEL_ROOT for the root */
	enum cdm_role *role;
	int *hand, *tree;
	json_t *pauses;        /* where it is paused: "@all", "@group", "@region" */
	int64_t *paused_since; /* per node index, Unix seconds; 0: goes on */
};
enum section { SECTION_GROUP, SECTION_REGION, SECTION_INTERNATIONAL, SECTION_COUNT }; /* section.h */
struct model_section {
	int compression; /* 0 none … 9 */
	bool encryption, delta;
	int64_t rate;    /* bytes a second, 0: no limit */
	json_t *grid;    /* [{"from","to","rate"}, …], checked */
};
struct model_token { char *id, *group; enum cdm_role role; int64_t expires, created; int uses_left; };
struct model {
	uint64_t epoch;
	struct model_region *regions; size_t region_count; /* by name */
	struct model_group *groups; size_t group_count;    /* by name */
	struct model_node *nodes; size_t node_count;       /* by number */
	struct model_set *sets; size_t set_count;          /* by name */
	struct model_section sections[SECTION_COUNT];
	struct model_token *tokens; size_t token_count;
	char *admin_hash;
};
const struct model_region *model_region(const struct model *m, const char *name);
const struct model_group *model_group(const struct model *m, const char *name);
const struct model_node *model_node(const struct model *m, const char *name);
const struct model_node *model_node_number(const struct model *m, uint32_t number);
const struct model_set *model_set(const struct model *m, const char *name);
static inline size_t model_index(const struct model *m, const struct model_node *n)
{
	return (size_t)(n - m->nodes);
}
const char *role_name(enum cdm_role role);
/* 0 for unknown words. */
enum cdm_role role_parse(const char *text);
const char *node_state_name(enum node_state s);

/* The changes. Arguments are one JSON object; names are checked, what is missing or unknown gives -EINVAL, -ENOENT or -EEXIST with
 * sentence and hint. The answer is a JSON object or NULL. */
enum registry_op {
	REG_REGION_ADD,    /* name */
	REG_REGION_REMOVE, /* name; -EBUSY while it has groups */
	REG_GROUP_ADD,     /* name, region */
	REG_GROUP_REMOVE,  /* name; -EBUSY while it has nodes */
	REG_NODE_JOIN,     /* id, hash, name or null, serial, now → node, number, group, region, role. -EACCES with the reason for the log */
	REG_NODE_CHANGE,   /* name, optional: state, capacity, group */
	REG_NODE_REMOVE,   /* name */
	REG_NODE_SEEN,     /* number, last_seen, optional: addr, serial of its new certificate; no new epoch unless addr changed */
	REG_NODE_UNKNOWN,  /* number: it was given once, so never again */
	REG_SET_ADD,       /* name, optional: source, target, both, exclude, local, default_excludes, update, open */
	REG_SET_CHANGE,    /* as REG_SET_ADD */
	REG_SET_REMOVE,    /* name */
	REG_SET_PAUSE,     /* name, where ("@all", "@group", "@region"), now */
	REG_SET_RESUME,    /* name, where ("@all": everywhere); -EEXIST for a part of what is paused as a whole */
	REG_SECTION_CHANGE, /* name, optional: compression, encryption, delta, rate, grid */
	REG_ROUTE_SET,     /* set, node, parent or null. -ELOOP */
	REG_TREES,         /* edges: [[set id, node number, parent number or 0 for the root, -1 for gone], …] */
	REG_TOKEN_ADD,     /* id, hash, group, role, expires, uses, now */
	REG_TOKEN_REMOVE,  /* id */
	REG_ACCOUNT_SET,   /* name, hash */
	REG_EVENT,         /* at, level, name, node, set, text */
	REG_OP_MAX
};
struct registry_who { /* for the audit table; account NULL: not a person's change */
	const char *account, *address;
};
struct registry;
/* Called on the loop; result is borrowed. error: 0 or -errno, then err says it. */
typedef void registry_done_fn(void *arg, int error, const json_t *result, const struct cdm_error *err);
/* args: reference is taken over. dry: everything but the commit. done may be NULL. */
void registry_submit(struct registry *r, enum registry_op op, json_t *args, const struct registry_who *who, bool dry,
	registry_done_fn *done, void *arg);

/* changed: called on the loop after each new model. */
typedef void registry_changed_fn(void *arg);
/* Opens or creates DIR/master.db, starts the writer. Errors say what to do: damaged, newer version, not writable. */
int registry_open(const char *dir, struct event_base *base, registry_changed_fn *changed, void *arg, struct registry **ret,
	struct cdm_error *err);
void registry_close(struct registry **r); /* commits what is queued, answers it, ends the writer */
const struct model *registry_model(const struct registry *r);
/* The stored audit and event rows, newest first, as a JSON array; reads on the writer, answers like a change. */
void registry_read_log(struct registry *r, bool audit, int limit, registry_done_fn *done, void *arg);
/* False after the database failed for good; changes are refused then. */
bool registry_is_healthy(const struct registry *r);

#endif
