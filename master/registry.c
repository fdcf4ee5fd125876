/* SPDX-License-Identifier: Apache-2.0 */
#include "master/registry.h"

#include <assert.h>
#include <errno.h>
#include <inttypes.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <time.h>
#include <unistd.h>
#include "common/log.h"
#include "master/registry_sql.h"

static const char schema[] =
#include "schema.inc"
	;

struct request {
	struct request *next;
	enum registry_op op; /* REG_OP_MAX: read a log */
	json_t *args, *result;
	char account[64], address[64];
	bool dry, bump;
	int error;
	struct cdm_error err;
	registry_done_fn *done;
	void *arg;
};
struct queue {
	struct request *first, **last;
};

struct registry {
	/* loop thread */
	struct event_base *base;
	struct event *wake_event;
	struct model *model;
	registry_changed_fn *changed;
	void *changed_arg;
	pthread_t thread;
	int wake_fd;
	/* writer thread */
	sqlite3 *db;
	/* both, under mtx */
	pthread_mutex_t mtx;
	pthread_cond_t cond;
	struct queue todo, finished;
	struct model *fresh; /* newest model the loop has not taken yet */
	bool stopping, failed;
};

/* --- statements ------------------------------------------------------------------------------------------------- */

int sql_fail(sqlite3 *db, int result, struct cdm_error *err)
{
	int extended = sqlite3_extended_errcode(db);
	if (extended == SQLITE_CONSTRAINT_UNIQUE || extended == SQLITE_CONSTRAINT_PRIMARYKEY)
		return cdm_fail_plain(err, EEXIST, "exists already");
	if (extended == SQLITE_CONSTRAINT_FOREIGNKEY)
		return cdm_fail_plain(err, EBUSY, "still in use");
	int errnum = result == SQLITE_FULL ? ENOSPC : result == SQLITE_NOMEM ? ENOMEM : EIO;
	cdm_fail_plain(err, errnum, "database: %s", sqlite3_errmsg(db));
	if (errnum == ENOSPC)
		cdm_hint(err, "free space on the disk of the master's directory");
	return -errnum;
}

static int prepare_va(sqlite3 *db, sqlite3_stmt **ret, struct cdm_error *err, const char *sql, const char *format, va_list ap)
{
	int r = sqlite3_prepare_v2(db, sql, -1, ret, NULL);
	for (int i = 0; r == SQLITE_OK && format[i]; i++) {
		if (format[i] == 's')
			r = sqlite3_bind_text(*ret, i + 1, va_arg(ap, const char *), -1, SQLITE_TRANSIENT);
		else if (format[i] == 'i')
			r = sqlite3_bind_int64(*ret, i + 1, va_arg(ap, int64_t));
		else
			r = sqlite3_bind_null(*ret, i + 1);
	}
	if (r == SQLITE_OK)
		return 0;
	r = sql_fail(db, r, err);
	sqlite3_finalize(*ret);
	*ret = NULL;
	return r;
}

int sql_prepare(sqlite3 *db, sqlite3_stmt **ret, struct cdm_error *err, const char *sql, const char *format, ...)
{
	va_list ap;
	va_start(ap, format);
	int r = prepare_va(db, ret, err, sql, format, ap);
	va_end(ap);
	return r;
}

int sql_run(sqlite3 *db, struct cdm_error *err, const char *sql, const char *format, ...)
{
	sqlite3_stmt *st = NULL;
	va_list ap;
	va_start(ap, format);
	int r = prepare_va(db, &st, err, sql, format, ap);
	va_end(ap);
	if (r < 0)
		return r;
	int step = sqlite3_step(st);
	r = step == SQLITE_DONE || step == SQLITE_ROW ? 0 : sql_fail(db, step, err);
	sqlite3_finalize(st);
	return r;
}

int sql_int(sqlite3 *db, int64_t *ret, struct cdm_error *err, const char *sql, const char *format, ...)
{
	sqlite3_stmt *st = NULL;
	va_list ap;
	va_start(ap, format);
	int r = prepare_va(db, &st, err, sql, format, ap);
	va_end(ap);
	if (r < 0)
		return r;
	int step = sqlite3_step(st);
	if (step == SQLITE_ROW)
		*ret = sqlite3_column_int64(st, 0);
	r = step == SQLITE_ROW ? 1 : step == SQLITE_DONE ? 0 : sql_fail(db, step, err);
	sqlite3_finalize(st);
	return r;
}

/* --- writer ----------------------------------------------------------------------------------------------------- */

static int write_audit(sqlite3 *db, const struct request *q, struct cdm_error *err)
{
	json_t *shown = json_copy(q->args);
	json_object_del(shown, "hash");
	_cleanup_free_ char *detail = json_dumps(shown, JSON_COMPACT | JSON_SORT_KEYS);
	json_decref(shown);
	int r = sql_run(db, err, "INSERT INTO audit (at, account, address, action, detail) VALUES (?, ?, ?, ?, ?)", "issss",
		(int64_t)time(NULL), q->account, q->address, registry_op_name(q->op), detail ? detail : "");
	return r < 0 ? r : sql_run(db, err, "DELETE FROM audit WHERE id <= (SELECT MAX(id) FROM audit) - ?", "i", (int64_t)REGISTRY_LOG_ROWS);
}

/* One request in its own savepoint: it is in or it is not, whatever the others do. */
static void run_request(sqlite3 *db, struct request *q)
{
	int r = sql_run(db, &q->err, "SAVEPOINT request", "");
	if (r == 0)
		r = registry_operate(db, q->op, q->args, &q->result, &q->bump, &q->err);
	if (r == 0 && q->account[0])
		r = write_audit(db, q, &q->err);
	if (r == 0 && q->bump)
		r = sql_run(db, &q->err, "UPDATE meta SET value = value + 1 WHERE key = 'epoch'", "");
	if (r < 0 || q->dry) {
		sql_run(db, NULL, "ROLLBACK TO request", "");
		q->bump = false;
	}
	int released = sql_run(db, NULL, "RELEASE request", "");
	q->error = r < 0 ? r : released;
}

static void fail_all(struct request *first, int error, const struct cdm_error *err)
{
	for (struct request *q = first; q; q = q->next) {
		if (q->error < 0)
			continue;
		q->error = error;
		q->err = *err;
	}
}

/* Run and commit all that is queued as one transaction; the model is loaded once behind it. */
static void run_group(struct registry *r, struct request *first)
{
	struct cdm_error err = CDM_ERROR_INIT;
	bool changes = false;
	int error = sql_run(r->db, &err, "BEGIN IMMEDIATE", "");
	for (struct request *q = first; q && error == 0; q = q->next) {
		if (q->op == REG_OP_MAX) {
			q->result = registry_load_log(r->db, json_is_true(json_object_get(q->args, "audit")),
				(int)json_integer_value(json_object_get(q->args, "limit")), &q->err);
			q->error = q->result ? 0 : -EIO;
			continue;
		}
		run_request(r->db, q);
		changes |= q->error == 0 && !q->dry && q->op != REG_EVENT;
	}
	if (error == 0)
		error = sql_run(r->db, &err, "COMMIT", "");
	struct model *m = NULL;
	if (error == 0 && changes)
		error = registry_load_model(r->db, &m, &err);
	if (error < 0) {
		sql_run(r->db, NULL, "ROLLBACK", "");
		cdm_log_err(db_failed, &err);
		fail_all(first, error, &err);
	}
	pthread_mutex_lock(&r->mtx);
	r->failed = error < 0;
	if (m) {
		registry_free_model(&r->fresh);
		r->fresh = m;
	}
	*r->finished.last = first;
	while (*r->finished.last)
		r->finished.last = &(*r->finished.last)->next;
	pthread_mutex_unlock(&r->mtx);
	eventfd_write(r->wake_fd, 1);
}

static void *writer(void *arg)
{
	struct registry *r = arg;
	pthread_setname_np(pthread_self(), "registry");
	pthread_mutex_lock(&r->mtx);
	for (;;) {
		while (!r->todo.first && !r->stopping)
			pthread_cond_wait(&r->cond, &r->mtx);
		struct request *first = r->todo.first;
		r->todo = (struct queue){.last = &r->todo.first};
		if (!first)
			break;
		pthread_mutex_unlock(&r->mtx);
		run_group(r, first);
		pthread_mutex_lock(&r->mtx);
	}
	pthread_mutex_unlock(&r->mtx);
	return NULL;
}

/* --- loop side -------------------------------------------------------------------------------------------------- */

static void finish(struct registry *r)
{
	pthread_mutex_lock(&r->mtx);
	struct request *first = r->finished.first;
	struct model *fresh = r->fresh;
	r->finished = (struct queue){.last = &r->finished.first};
	r->fresh = NULL;
	pthread_mutex_unlock(&r->mtx);
	if (fresh) {
		registry_free_model(&r->model);
		r->model = fresh;
		if (r->changed)
			r->changed(r->changed_arg);
	}
	while (first) {
		struct request *q = first;
		first = q->next;
		if (q->done)
			q->done(q->arg, q->error, q->result, &q->err);
		else if (q->error < 0)
			cdm_log_err(db_failed, &q->err, cdm_str("action", registry_op_name(q->op)));
		json_decref(q->args);
		json_decref(q->result);
		free(q);
	}
}

static void on_wake(evutil_socket_t fd, short what, void *arg)
{
	eventfd_t count;
	eventfd_read(fd, &count);
	finish(arg);
}

static void submit(struct registry *r, struct request *q)
{
	pthread_mutex_lock(&r->mtx);
	assert(!r->stopping);
	*r->todo.last = q;
	r->todo.last = &q->next;
	pthread_cond_signal(&r->cond);
	pthread_mutex_unlock(&r->mtx);
}

static struct request *request_new(enum registry_op op, json_t *args, registry_done_fn *done, void *arg)
{
	struct request *q = calloc(1, sizeof *q);
	if (!q)
		abort(); /* a few hundred bytes: there is nothing left to go on with */
	q->op = op;
	q->args = args;
	q->done = done;
	q->arg = arg;
	return q;
}

void registry_submit(struct registry *r, enum registry_op op, json_t *args, const struct registry_who *who, bool dry,
	registry_done_fn *done, void *arg)
{
	assert(op < REG_OP_MAX);
	struct request *q = request_new(op, args, done, arg);
	q->dry = dry;
	if (who && who->account) {
		snprintf(q->account, sizeof q->account, "%s", who->account);
		snprintf(q->address, sizeof q->address, "%s", who->address ? who->address : "");
	}
	submit(r, q);
}

void registry_read_log(struct registry *r, bool audit, int limit, registry_done_fn *done, void *arg)
{
	submit(r, request_new(REG_OP_MAX, json_pack("{s:b, s:i}", "audit", audit, "limit", limit), done, arg));
}

const struct model *registry_model(const struct registry *r)
{
	return r->model;
}

bool registry_is_healthy(const struct registry *r)
{
	struct registry *unlocked = (struct registry *)r;
	pthread_mutex_lock(&unlocked->mtx);
	bool healthy = !r->failed;
	pthread_mutex_unlock(&unlocked->mtx);
	return healthy;
}

/* --- opening ---------------------------------------------------------------------------------------------------- */

static int explain_open(sqlite3 *db, int result, const char *path, struct cdm_error *err)
{
	if (result == SQLITE_NOTADB || result == SQLITE_CORRUPT) {
		cdm_fail_plain(err, EBADMSG, "database %s is damaged: %s", path, sqlite3_errmsg(db));
		cdm_hint(err, "put it back from a backup, or save what can be saved: sqlite3 %s .recover", path);
		return -EBADMSG;
	}
	int errnum = result == SQLITE_READONLY || result == SQLITE_CANTOPEN || result == SQLITE_PERM ? EACCES : result == SQLITE_BUSY ? EBUSY : EIO;
	cdm_fail_plain(err, errnum, "database %s: %s", path, sqlite3_errmsg(db));
	cdm_hint(err, errnum == EBUSY ? "another program uses it; end that one first" : "check the owner and the permissions of this directory, and the disk");
	return -errnum;
}

static int check_database(sqlite3 *db, const char *path, struct cdm_error *err)
{
	sqlite3_stmt *st = NULL;
	int r = sqlite3_prepare_v2(db, "PRAGMA quick_check(1)", -1, &st, NULL);
	if (r == SQLITE_OK)
		r = sqlite3_step(st);
	bool good = r == SQLITE_ROW && strcmp((const char *)sqlite3_column_text(st, 0), "ok") == 0;
	char text[200] = "";
	if (r == SQLITE_ROW && !good)
		snprintf(text, sizeof text, "%s", (const char *)sqlite3_column_text(st, 0));
	sqlite3_finalize(st);
	if (good)
		return 0;
	if (r != SQLITE_ROW)
		return explain_open(db, r, path, err);
	cdm_fail_plain(err, EBADMSG, "database %s is damaged: %s", path, text);
	cdm_hint(err, "put it back from a backup, or save what can be saved: sqlite3 %s .recover", path);
	return -EBADMSG;
}

/* What leads from layout N (index) to N + 1; index 0 makes the newest at once. */
static const char *const steps[REGISTRY_VERSION] = {
	schema,
	"CREATE TABLE pause (\"set\" INTEGER NOT NULL REFERENCES \"set\"(id) ON DELETE CASCADE, kind TEXT NOT NULL, subject INTEGER NOT NULL, "
	"since INTEGER NOT NULL, PRIMARY KEY (\"set\", kind, subject)) WITHOUT ROWID;",
	"CREATE TABLE section (name TEXT PRIMARY KEY, compression INTEGER NOT NULL, encryption INTEGER NOT NULL DEFAULT 1, "
	"\"delta\" INTEGER NOT NULL DEFAULT 1, rate INTEGER NOT NULL DEFAULT 0, grid TEXT NOT NULL DEFAULT '[]') WITHOUT ROWID;"
	"INSERT INTO section (name, compression) VALUES ('group', 1), ('region', 3), ('international', 6);",
};

static int open_schema(sqlite3 *db, const char *path, struct cdm_error *err)
{
	int64_t version = 0;
	int r = sql_int(db, &version, err, "PRAGMA user_version", "");
	if (r < 0)
		return r;
	if (version > REGISTRY_VERSION) {
		cdm_fail_plain(err, EPROTO, "database %s was written by a newer cdm-master (layout %" PRId64 ", this one knows %d)", path, version,
			REGISTRY_VERSION);
		cdm_hint(err, "start that version again, or put back a backup from before the upgrade");
		return -EPROTO;
	}
	if (version == REGISTRY_VERSION)
		return 0;
	char *text = NULL, done[60];
	int step = (int)version;
	int sql = sqlite3_exec(db, "BEGIN IMMEDIATE", NULL, NULL, &text);
	while (sql == SQLITE_OK && step < REGISTRY_VERSION) {
		sql = sqlite3_exec(db, steps[step], NULL, NULL, &text);
		step = step == 0 ? REGISTRY_VERSION : step + 1;
	}
	snprintf(done, sizeof done, "PRAGMA user_version = %d; COMMIT", REGISTRY_VERSION);
	if (sql == SQLITE_OK && sqlite3_exec(db, done, NULL, NULL, &text) == SQLITE_OK)
		return 0;
	r = cdm_fail_plain(err, EIO, "%s the tables in %s: %s", version ? "upgrade" : "create", path, text ? text : sqlite3_errmsg(db));
	sqlite3_free(text);
	return r;
}

static int open_database(const char *dir, sqlite3 **ret, struct cdm_error *err)
{
	char path[4096];
	if (snprintf(path, sizeof path, "%s/master.db", dir) >= (int)sizeof path)
		return cdm_fail_plain(err, ENAMETOOLONG, "%s is too long a path", dir);
	int r = sqlite3_open_v2(path, ret, SQLITE_OPEN_READWRITE | SQLITE_OPEN_CREATE | SQLITE_OPEN_NOMUTEX, NULL);
	if (r == SQLITE_OK)
		r = sqlite3_exec(*ret, "PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL; PRAGMA foreign_keys = ON; PRAGMA busy_timeout = 5000",
			NULL, NULL, NULL);
	if (r != SQLITE_OK)
		return explain_open(*ret, r, path, err);
	sqlite3_extended_result_codes(*ret, 0);
	r = check_database(*ret, path, err);
	return r < 0 ? r : open_schema(*ret, path, err);
}

int registry_open(const char *dir, struct event_base *base, registry_changed_fn *changed, void *arg, struct registry **ret,
	struct cdm_error *err)
{
	struct registry *r = calloc(1, sizeof *r);
	if (!r)
		return cdm_fail(err, ENOMEM, "registry");
	r->base = base;
	r->changed = changed;
	r->changed_arg = arg;
	r->wake_fd = -1;
	r->todo.last = &r->todo.first;
	r->finished.last = &r->finished.first;
	pthread_mutex_init(&r->mtx, NULL);
	pthread_cond_init(&r->cond, NULL);
	int error = open_database(dir, &r->db, err);
	if (error == 0)
		error = registry_load_model(r->db, &r->model, err);
	if (error == 0) {
		r->wake_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
		r->wake_event = r->wake_fd < 0 ? NULL : event_new(base, r->wake_fd, EV_READ | EV_PERSIST, on_wake, r);
		if (!r->wake_event || event_add(r->wake_event, NULL) < 0)
			error = cdm_fail(err, errno, "event of the registry");
	}
	if (error == 0) {
		int created = pthread_create(&r->thread, NULL, writer, r);
		if (created)
			error = cdm_fail(err, created, "start the registry's writer");
	}
	if (error == 0) {
		*ret = r;
		return 0;
	}
	if (r->wake_event)
		event_free(r->wake_event);
	if (r->wake_fd >= 0)
		close(r->wake_fd);
	registry_free_model(&r->model);
	sqlite3_close(r->db);
	free(r);
	return error;
}

void registry_close(struct registry **pr)
{
	struct registry *r = *pr;
	*pr = NULL;
	if (!r)
		return;
	pthread_mutex_lock(&r->mtx);
	r->stopping = true;
	pthread_cond_signal(&r->cond);
	pthread_mutex_unlock(&r->mtx);
	pthread_join(r->thread, NULL);
	r->changed = NULL;
	finish(r);
	event_free(r->wake_event);
	close(r->wake_fd);
	registry_free_model(&r->model);
	sqlite3_close(r->db);
	pthread_mutex_destroy(&r->mtx);
	pthread_cond_destroy(&r->cond);
	free(r);
}
