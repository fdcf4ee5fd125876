/* SPDX-License-Identifier: Apache-2.0 */
/* conf.h — the node's own configuration (node.conf, written by people), its identity (identity.json, written by
 * `cdm-replicator join`) and the sets' policies (routes.json, written by the replicator as the master pushes them).
 * docs/internals.md shows each file. All are read by the mount, too, which must start without the master. */
#ifndef CDM_CONF_H
#define CDM_CONF_H

#include <stdbool.h>
#include <stdint.h>
#include "common/error.h"
#include "common/filter.h"

struct cdm_set_conf { /* [set NAME] */
	char *name, *store, *mountpoint;
	uint64_t journal_bytes; /* 0 = default */
	uint64_t scrub_rate;    /* bytes a second that are read to compare contents; 0 = default */
};
struct cdm_conf {
	char *path;      /* of the file, for messages */
	char *state;     /* /var/lib/cdmfs */
	char *run;       /* /run/cdmfs */
	char *listen;    /* host:port of the replicator for its peers; default 0.0.0.0:7441 */
	char *advertise; /* host:port told to the others; default: the address used towards the master + listen's port */
	char *control;   /* RUN/control.sock */
	struct cdm_set_conf *sets;
	size_t set_count;
};
/* path NULL: $CDMFS_CONFIG, else /etc/cdmfs/node.conf. Unknown sections, keys and values are errors with line numbers. */
int cdm_conf_load(const char *path, struct cdm_conf **ret, struct cdm_error *err);
void cdm_conf_free(struct cdm_conf **conf);
/* NULL: no such set; err (if given) then names the known ones. */
const struct cdm_set_conf *cdm_conf_set(const struct cdm_conf *conf, const char *name, struct cdm_error *err);
/* Which set has this path in its mount or store (longest match)? NULL if none. */
const struct cdm_set_conf *cdm_conf_set_of_path(const struct cdm_conf *conf, const char *path);

struct cdm_identity { /* STATE/identity.json */
	char *node;      /* name */
	uint32_t number; /* assigned by the master, never reused */
	char *group, *region;
	char *master;    /* host:port for agents */
	char *api;       /* https://host:port of the HTTP API */
};
/* -ENOENT: not joined yet; hint says how. */
int cdm_identity_load(const struct cdm_conf *conf, struct cdm_identity **ret, struct cdm_error *err);
void cdm_identity_free(struct cdm_identity **id);

enum cdm_role { CDM_ROLE_NONE = 0, CDM_ROLE_SOURCE = 1, CDM_ROLE_TARGET = 2, CDM_ROLE_BOTH = 3 };
struct cdm_policy { /* of one set on this node, from STATE/routes.json */
	uint64_t epoch;
	enum cdm_role role;
	bool read_only;          /* pure target: only local paths are writable */
	bool known;              /* false: routes.json does not name the set (yet): nothing ships; writable unless the node joined as a target */
	struct cdm_filter exclude, local;
	bool strict_update, ship_open;
};
/* Never fails for a missing file: then `known` is false and exclude holds the defaults. */
int cdm_policy_load(const struct cdm_conf *conf, const char *set, struct cdm_policy *ret, struct cdm_error *err);
void cdm_policy_fini(struct cdm_policy *p);

#endif
