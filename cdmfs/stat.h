/* SPDX-License-Identifier: Apache-2.0 */
/* stat.h — the parts of cdmfs-stat: what was asked (options, target), the control socket of the replicator (client, docs/internals.md 5),
 * and how answers are shown (status, wait, why). One thread; everything lives as long as the program. */
#ifndef CDMFS_STAT_H
#define CDMFS_STAT_H

#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <jansson.h>
#include "common/conf.h"
#include "common/error.h"
#include "common/status.h"
#include "common/text.h"

enum stat_exit { STAT_GOOD = 0, STAT_FAILED = 1, STAT_USAGE = 2, STAT_NOT_IN_SYNC = 3, STAT_TIMEOUT = 4 };

struct stat_options { /* strings point into argv */
	const char *subject; /* SET, PATH or MOUNT; NULL = all sets */
	const char *node, *group, *config;
	bool json, watch, wait, fail_fast;
	double timeout_s;
	double min_percent;
};
/* 0: go on; 1: --help or --version was answered; -EINVAL: usage error. */
int stat_options_parse(int argc, char **argv, struct stat_options *ret, struct cdm_error *err);

struct stat_target {
	const struct cdm_set_conf *set; /* NULL: all */
	char *path;                     /* relative to the set's root, or NULL: the whole set */
};
/* Which set, and which file in it, the person means. */
int stat_target_find(const struct cdm_conf *conf, const char *subject, struct stat_target *ret, struct cdm_error *err);
void stat_target_fini(struct stat_target *t);

struct stat_client {
	int fd;
	char *buf;
	size_t used, room; /* of buf; a line and what came behind it */
};
int stat_client_open(const struct cdm_conf *conf, struct stat_client *ret, struct cdm_error *err);
void stat_client_close(struct stat_client *c);
/* Takes the request. */
int stat_client_send(struct stat_client *c, json_t *request, struct cdm_error *err);
/* Next answer; the caller decrefs. timeout_ms -1: none; -ETIMEDOUT. An answer that is an error becomes one. */
int stat_client_read(struct stat_client *c, int timeout_ms, json_t **ret, struct cdm_error *err);
/* send + read. */
int stat_client_ask(struct stat_client *c, json_t *request, json_t **ret, struct cdm_error *err);

/* What is asked: the actions. Exit code, or -errno with err. `sets` (names) has at least one entry. */
int stat_status(const struct cdm_conf *conf, const struct stat_options *o, const json_t *sets, struct cdm_error *err);
/* One set's status object, as a table or as JSON. 0 in sync, 1 not, -errno. */
int stat_show(const struct stat_options *o, json_t *status, struct cdm_error *err);
/* The same from the master that CDMFS_API, CDMFS_TOKEN_FILE and CDMFS_CA name; for hosts without node.conf. */
bool stat_master_is_named(void);
int stat_master(const struct stat_options *o, struct cdm_error *err);
int stat_watch(const struct cdm_conf *conf, const struct stat_options *o, const json_t *sets, struct cdm_error *err);
int stat_wait(const struct cdm_conf *conf, const struct stat_options *o, const json_t *sets, const char *path, struct cdm_error *err);
int stat_why(const struct cdm_conf *conf, const struct stat_options *o, const struct stat_target *t, struct cdm_error *err);

/* A request about one set; NULL node and group are left away. `path` (may be NULL) in "path", or in "path_hex" when it is not UTF-8. */
json_t *stat_request(const char *cmd, const char *set, const char *path);
void stat_print_json(const json_t *answer); /* one line, without what only the protocol needs */
/* Does the node count for --node and --group? */
bool stat_is_asked(const struct stat_options *o, const json_t *node);
const char *stat_text(const json_t *object, const char *key); /* "" when it is missing */

#endif
