/* SPDX-License-Identifier: Apache-2.0 */
/* Control and status by extended attributes (docs/internals.md 2): of the full mount's root, and user.cdmfs.status of any file. */
#include <errno.h>
#include <fcntl.h>
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>
#include "cdmfs/fs.h"
#include "cdmfs/save.h"
#include "cdmfs/store.h"
#include "common/io.h"
#include "common/log.h"

#define OPEN_LIST_MAX 100
#define PEERS_BYTES_MAX (4u << 20)
#define INCARNATIONS_AHEAD 65536

/* --- set --- */

/* Content that could not be published here is kept for those who follow this node (replicator/aside.h). */
static bool lies_aside(struct fs *fs, struct cdm_change *c)
{
	struct cdm_stamp stamp;
	char dot[64], name[80];

	cdm_dot_format(c->version.dot, dot);
	snprintf(name, sizeof(name), "aside/%s", dot);
	_cleanup_close_ int fd = openat(fs->store.meta_fd, name, O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC);
	return fd >= 0 && cdm_handle_get(fs->store.meta_fd, name, &c->handle) == 0 && cdm_stamp_get(fd, &stamp) == 0 &&
		cdm_dot_equal(stamp.content.dot, c->version.dot);
}

/* A received change that was so here already, or cannot be done here: what it speaks of is looked up now, while no name can change. Where that is not (any
 * more) what the change says, it is superseded. */
static int put_done(struct fs *fs, struct cdm_change *c)
{
	bool two = c->op == CDM_OP_RENAME || c->op == CDM_OP_LINK, same;
	struct cdm_stamp stamp = {0};
	struct object o = {.fd = -1};
	char component[CDM_NAME_LEN_MAX + 1] = "";
	const char *name;
	int r;

	c->flags |= CDM_CH_RECEIVED;
	pthread_rwlock_wrlock(&fs->tree);
	_cleanup_close_ int dir = cdm_open_parent(fs->store.root_fd, two ? c->path2 : c->path, two ? c->path2_len : c->path_len, &name);
	size_t len = dir < 0 ? 0 : (size_t)((two ? c->path2 + c->path2_len : c->path + c->path_len) - name);
	if (dir >= 0 && len <= CDM_NAME_LEN_MAX) { /* in the record no NUL follows */
		memcpy(component, name, len);
		component[len] = 0;
	}
	if (component[0] && object_find(fs, dir, component, &o) == 0 && o.fd >= 0) {
		c->handle = o.handle;
		if (cdm_stamp_get(o.fd, &stamp) < 0)
			stamp = (struct cdm_stamp){0};
	}
	same = o.fd >= 0 && S_ISREG(o.st.st_mode) && cdm_dot_equal(stamp.content.dot, c->version.dot);
	if (c->op == CDM_OP_SAVE && !same && !lies_aside(fs, c)) {
		c->op = CDM_OP_SKIP;
		c->flags = CDM_CH_RECEIVED;
		c->range_count = 0;
	}
	r = cdm_journal_put(fs->journal, c);
	pthread_rwlock_unlock(&fs->tree);
	object_close(&o);
	return r;
}

static int put_record(struct fs *fs, struct cdm_change *c, const struct cdm_vector *applied)
{
	if (cdm_op_ships(c->op) && c->op != CDM_OP_SKIP) {
		if (cdm_dot_is_none(c->dot) || c->dot.origin == cdm_journal_origin(fs->journal))
			return -EINVAL;
		return cdm_vector_covers(applied, c->dot) ? 0 : put_done(fs, c);
	}
	if (c->op == CDM_OP_SKIP) {
		if (cdm_dot_is_none(c->dot))
			return -EINVAL;
		if (cdm_vector_covers(applied, c->dot))
			return 0;
		if (c->dot.origin != cdm_journal_origin(fs->journal))
			c->flags |= CDM_CH_RECEIVED;
	} else if (c->op != CDM_OP_MARK) {
		return -EINVAL;
	}
	return cdm_journal_put(fs->journal, c);
}

static int put_records(struct fs *fs, const uint8_t *bytes, size_t len)
{
	struct cdm_vector applied = {0};
	int r = 0;

	cdm_journal_applied(fs->journal, &applied);
	for (size_t at = 0; r == 0 && at < len;) {
		struct cdm_change c;
		uint32_t one;
		if (len - at < sizeof(one)) {
			r = -EBADMSG;
			break;
		}
		memcpy(&one, bytes + at, sizeof(one));
		at += sizeof(one);
		if (one > len - at) {
			r = -EBADMSG;
			break;
		}
		r = cdm_change_decode(bytes + at, one, &c);
		if (r < 0)
			break;
		r = put_record(fs, &c, &applied);
		cdm_change_fini(&c);
		at += one;
	}
	cdm_vector_fini(&applied);
	return r;
}

/* The next one behind `known`, of which a peer told: nobody may use up all of them by what he tells. */
static int new_incarnation(struct fs *fs, const char *known_text, size_t len)
{
	struct cdm_error err = CDM_ERROR_INIT;
	char text[16] = "", *end;
	unsigned long known;
	int r;

	if (len == 0 || len >= sizeof(text))
		return -EINVAL;
	memcpy(text, known_text, len);
	known = strtoul(text, &end, 10);
	if (*end)
		return -EINVAL;
	if (known < fs->store.incarnation)
		return 0;
	if (known >= UINT32_MAX || known - fs->store.incarnation > INCARNATIONS_AHEAD)
		return -ERANGE;
	r = store_set_incarnation(fs, (uint32_t)known + 1, &err);
	if (r < 0) {
		cdm_log_err(failed, &err);
		return r;
	}
	cdm_journal_set_incarnation(fs->journal, fs->store.incarnation);
	cdm_log(incarnation_new, cdm_uint("incarnation", fs->store.incarnation), cdm_str("reason", "a peer knows more of this node than it does itself"));
	return 0;
}

int control_set(struct request *rq, const char *name, const void *value, size_t len)
{
	struct cdm_error err = CDM_ERROR_INIT;
	int r;

	if (strcmp(name, "trusted.cdmfs.journal") == 0)
		return put_records(rq->fs, value, len);
	if (strcmp(name, "trusted.cdmfs.rescan") == 0)
		return rescan_take(rq->fs, value, len);
	if (strcmp(name, "trusted.cdmfs.again") == 0)
		return cdm_path_check(value, len) < 0 ? -EINVAL : save_again(rq->fs, value, len);
	if (strcmp(name, "trusted.cdmfs.new") == 0)
		return cdm_path_check(value, len) < 0 ? -EINVAL : saver_renew_tree(rq->fs, value, len);
	if (strcmp(name, "trusted.cdmfs.incarnation") == 0)
		return new_incarnation(rq->fs, value, len);
	if (strcmp(name, "trusted.cdmfs.policy") != 0)
		return -EOPNOTSUPP;
	r = policy_reload(rq->fs, &err);
	if (r < 0)
		cdm_log_err(failed, &err);
	return r;
}

/* --- get --- */

static int answer_json(struct request *rq, json_t *j, uint32_t size)
{
	size_t n = j ? json_dumpb(j, (char *)rq->worker->out, WORKER_BUFFER, JSON_COMPACT) : 0;

	json_decref(j);
	return n == 0 ? -ENOMEM : answer_xattr(rq, rq->worker->out, n, size);
}

static json_t *requests_json(struct fs *fs)
{
	json_t *j = json_object();

	for (uint32_t i = 0; j && i < OPCODES_MAX; i++)
		if (opcode_name(i) && atomic_load(&fs->requests[i]))
			json_object_set_new(j, opcode_name(i), json_integer((json_int_t)atomic_load(&fs->requests[i])));
	return j;
}

static json_t *status_json(struct fs *fs)
{
	struct cdm_journal_stats s;
	struct cdm_vector applied = {0};
	char origin[64];
	char *vector;
	json_t *j;

	cdm_journal_stats(fs->journal, &s);
	cdm_journal_applied(fs->journal, &applied);
	vector = cdm_vector_format(&applied);
	snprintf(origin, sizeof(origin), "%u.%u", fs->node_number, fs->store.incarnation);
	j = json_pack("{s:s, s:s, s:s, s:I, s:I, s:I, s:b, s:I, s:o, s:I}", "set", fs->set, "origin", origin, "vector", vector ? vector : "",
		"head", (json_int_t)s.head_position, "frontier", (json_int_t)s.frontier_position, "synced", (json_int_t)s.synced_position,
		"read_only", (int)atomic_load(&fs->read_only), "nodes", (json_int_t)inodes_count(fs->nodes),
		"requests", requests_json(fs), "records", (json_int_t)s.records);
	free(vector);
	cdm_vector_fini(&applied);
	return j;
}

static int64_t clock_ns(clockid_t clock)
{
	struct timespec ts;

	clock_gettime(clock, &ts);
	return ts.tv_sec * 1000000000ll + ts.tv_nsec;
}

/* "path"; bytes that are not UTF-8 shown as ? there and whole in "path_hex". */
static void put_path(json_t *j, char *path, size_t len)
{
	json_t *text = json_stringn(path, len);

	if (!text) {
		char *hex = malloc(2 * len + 1);
		for (size_t i = 0; i < len; i++) {
			if (hex)
				sprintf(hex + 2 * i, "%02x", (unsigned char)path[i]);
			if ((unsigned char)path[i] >= 0x80)
				path[i] = '?';
		}
		json_object_set_new(j, "path_hex", hex ? json_string(hex) : NULL);
		free(hex);
		text = json_stringn(path, len);
	}
	json_object_set_new(j, "path", text);
}

static json_t *open_entry(struct fs *fs, const struct node *n, char *buf)
{
	struct node_path p;
	struct dirty d;
	json_t *j;

	if (n->flags & NODE_ORPHAN || !inodes_dirty(fs->nodes, n->id, &d) ||
	    inodes_path(fs->nodes, n->id, 0, buf, CDM_PATH_MAX, &p) < 0 || p.place != PLACE_CONTENT)
		return NULL;
	j = json_object();
	put_path(j, p.path, p.len);
	json_object_set_new(j, "since_ns", json_integer(clock_ns(CLOCK_REALTIME) - (clock_ns(CLOCK_MONOTONIC) - d.since_ns)));
	return j;
}

static json_t *open_json(struct fs *fs, char *buf)
{
	json_t *list = json_array();
	uint32_t cursor = 0;
	struct node n;

	while (list && json_array_size(list) < OPEN_LIST_MAX && inodes_next(fs->nodes, &cursor, &n)) {
		json_t *j = n.flags & NODE_UNSAVED ? open_entry(fs, &n, buf) : NULL;
		if (j)
			json_array_append_new(list, j);
	}
	return list;
}

int control_get(struct request *rq, const char *name, uint32_t size)
{
	if (strcmp(name, "trusted.cdmfs.status") == 0) {
		alive_waits(rq->worker);
		if (!check_wait(rq->fs)) /* the replicator begins with this */
			return OP_SILENT; /* the next server is asked again */
		return answer_json(rq, status_json(rq->fs), size);
	}
	if (strcmp(name, "trusted.cdmfs.open") == 0)
		return answer_json(rq, open_json(rq->fs, rq->worker->path), size);
	return -ENODATA;
}

/* --- user.cdmfs.status --- */

/* What the replicator tells of the nodes (RUN/SET/peers); NULL without it. The caller decrefs. */
static json_t *read_peers(struct fs *fs)
{
	_cleanup_free_ char *text = NULL;
	size_t len;

	if (cdm_read_file(fs->run_fd, "peers", PEERS_BYTES_MAX, &text, &len, NULL) < 0)
		return NULL;
	return json_loadb(text, len, 0, NULL);
}

/* "; durable on 2 of 3"; "" without the replicator. */
static void describe_peers(const json_t *nodes, struct cdm_dot dot, char *out, size_t room)
{
	size_t durable = 0, i;
	json_t *n;

	json_array_foreach(nodes, i, n) {
		const char *v = json_string_value(json_object_get(n, "durable"));
		struct cdm_vector vector = {0};
		if (v && cdm_vector_parse(v, &vector) == 0 && cdm_vector_covers(&vector, dot))
			durable++;
		cdm_vector_fini(&vector);
	}
	out[0] = 0;
	if (json_array_size(nodes))
		snprintf(out, room, "; durable on %zu of %zu", durable, json_array_size(nodes));
}

/* "n1:88"; of a node that nobody names "7.1:88". */
static void describe_version(struct fs *fs, const json_t *nodes, struct cdm_dot dot, char out[CDM_DOT_NAMED_SIZE])
{
	uint32_t number = CDM_ORIGIN_NODE(dot.origin);
	const char *name = number == fs->node_number ? fs->node_name : NULL;
	size_t i;
	json_t *n;

	json_array_foreach(nodes, i, n)
		if (!name && json_integer_value(json_object_get(n, "number")) == number)
			name = json_string_value(json_object_get(n, "name"));
	if (cdm_dot_is_none(dot))
		snprintf(out, CDM_DOT_NAMED_SIZE, "no version yet");
	else
		cdm_dot_format_named(dot, name, out);
}

int control_file_status(struct request *rq, uint64_t id, uint32_t size)
{
	struct fs *fs = rq->fs;
	struct cdm_stamp stamp = {0};
	struct dirty d;
	char version[CDM_DOT_NAMED_SIZE], peers[64] = "", *out = (char *)rq->worker->out;
	json_t *all, *nodes;
	int fd = node_open_path(fs, id), n;

	if (fd < 0)
		return fd;
	if (cdm_stamp_get(fd, &stamp) < 0)
		stamp = (struct cdm_stamp){0};
	close(fd);
	all = read_peers(fs);
	nodes = json_object_get(all, "nodes");
	describe_version(fs, nodes, stamp.content.dot, version);
	if (inodes_dirty(fs->nodes, id, &d)) {
		n = snprintf(out, 512, "%s not saved yet, changed %lld s ago", version,
			(long long)((clock_ns(CLOCK_MONOTONIC) - d.last_ns) / 1000000000));
	} else {
		if (!cdm_dot_is_none(stamp.content.dot))
			describe_peers(nodes, stamp.content.dot, peers, sizeof(peers));
		n = snprintf(out, 512, "%s saved%s", version, peers);
	}
	json_decref(all);
	return answer_xattr(rq, out, n, size);
}
