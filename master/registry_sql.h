/* SPDX-License-Identifier: Apache-2.0 */
/* registry_sql.h — inside of the SQLite registry: statement helpers, the operations, the model's loading. Writer thread only. */
#ifndef MASTER_REGISTRY_SQL_H
#define MASTER_REGISTRY_SQL_H

#include <sqlite3.h>
#include "master/registry.h"

#define REGISTRY_VERSION 3
#define REGISTRY_LOG_ROWS 10000 /* of events and of audit rows each */

/* Bind by format: s text, i int64, n NULL. Values follow. */
int sql_prepare(sqlite3 *db, sqlite3_stmt **ret, struct cdm_error *err, const char *sql, const char *format, ...);
/* Run a statement that gives no rows. 0 or -errno; -EEXIST for a broken UNIQUE, -EBUSY for a foreign key. */
int sql_run(sqlite3 *db, struct cdm_error *err, const char *sql, const char *format, ...);
/* First column of the first row: 1 found, 0 none, -errno. */
int sql_int(sqlite3 *db, int64_t *ret, struct cdm_error *err, const char *sql, const char *format, ...);
int sql_fail(sqlite3 *db, int result, struct cdm_error *err);

/* One operation inside an open transaction. bump: set to whether routes may look different (new epoch). */
int registry_operate(sqlite3 *db, enum registry_op op, const json_t *args, json_t **ret_result, bool *bump, struct cdm_error *err);
const char *registry_op_name(enum registry_op op);

int registry_load_model(sqlite3 *db, struct model **ret, struct cdm_error *err);
void registry_free_model(struct model **m);
json_t *registry_load_log(sqlite3 *db, bool audit, int limit, struct cdm_error *err);

#endif
