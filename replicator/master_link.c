/* SPDX-License-Identifier: Apache-2.0 */
#include "replicator/master_link.h"

#include <arpa/inet.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include "common/change.h"
#include "common/log.h"
#include "replicator/conn.h"
#include "replicator/links.h"
#include "replicator/opens.h"
#include "replicator/renew.h"
#include "replicator/resolve.h"
#include "replicator/route.h"
#include "replicator/set.h"
#include "replicator/state.h"
#include "replicator/view.h"

#define MESSAGE_MAX (1u << 20)
#define BACKOFF_MIN_MS 100
#define BACKOFF_MAX_MS 5000
#define CONNECT_MS 10000
#define STATUS_MS 1000     /* at change, at most so often … */
#define STATUS_WAIT_MS 400 /* … and so long after it: visible and durable make one message */
#define HEARTBEAT_MS 5000
#define SILENT_LIMIT_BYTES (4u << 20) /* of queued messages: a master that does not read is left */

struct master_link {
	struct node *node;
	struct conn *conn;       /* NULL: not connected */
	bool up, told_down;
	struct resolve *resolve;
	struct cdm_timer *retry, *status, *deadline;
	int64_t backoff_ms, status_ms, status_due_ms;
	struct state_watch watch;
};

static void master_dial(void *arg);
static void status_send(void *arg);
static const struct conn_ops master_conn_ops;

/* --- sending --- */

static void send_message(struct master_link *m, json_t *message)
{
	char *text = m->up ? json_dumps(message, JSON_COMPACT) : NULL;
	size_t len = text ? strlen(text) : 0;
	json_decref(message);
	if (len > 0 && len <= MESSAGE_MAX) {
		uint32_t be = htonl((uint32_t)len);
		conn_send(m->conn, &be, sizeof be);
		conn_send(m->conn, text, len);
	}
	free(text);
	if (m->up && conn_queued(m->conn) > SILENT_LIMIT_BYTES) {
		struct cdm_error why;
		cdm_fail_plain(&why, ETIMEDOUT, "the master does not take our messages");
		conn_abort(m->conn, &why);
	}
}

void master_send(struct node *node, json_t *message)
{
	if (node->master)
		send_message(node->master, message);
	else
		json_decref(message);
}

static json_t *message_new(const char *type)
{
	return json_pack("{s:s, s:i}", "type", type, "v", 1);
}

static bool is_mounted(struct set *set)
{
	struct set_state now = {0};
	set_get_state(set, &now);
	return strcmp(now.state, "not_mounted") != 0;
}

static void send_hello(struct master_link *m)
{
	struct node *node = m->node;
	json_t *j = message_new("hello"), *sets = json_array();
	json_object_set_new(j, "node", json_string(node->id->node));
	json_object_set_new(j, "number", json_integer(node->id->number));
	json_object_set_new(j, "version", json_string(CDM_VERSION));
	json_object_set_new(j, "listen_port", json_integer(listener_port(node)));
	json_object_set_new(j, "advertise", node->conf->advertise ? json_string(node->conf->advertise) : json_null());
	json_object_set_new(j, "epoch", json_integer((json_int_t)route_epoch(node)));
	for (size_t i = 0; i < node->set_count; i++)
		json_array_append_new(sets, json_pack("{s:s, s:b}", "name", set_name(node->sets[i]), "mounted", is_mounted(node->sets[i])));
	json_object_set_new(j, "sets", sets);
	send_message(m, j);
}

static void send_parent(struct master_link *m, const char *set, const char *parent, const char *reason)
{
	json_t *j = message_new("parent");
	json_object_set_new(j, "set", json_string(set));
	json_object_set_new(j, "parent", parent ? json_string(parent) : json_null());
	json_object_set_new(j, "reason", json_string(reason));
	send_message(m, j);
}

void master_tell_parent(struct node *node, const char *set, const char *parent, const char *reason)
{
	if (node->master && node->master->up)
		send_parent(node->master, set, parent, reason);
}

void master_tell_event(struct node *node, int level, const char *name, const char *set, const char *path, const char *text)
{
	if (!node->master || !node->master->up)
		return;
	json_t *j = message_new("event");
	json_object_set_new(j, "level", json_integer(level));
	json_object_set_new(j, "name", json_string(name));
	if (set)
		json_object_set_new(j, "set", json_string(set));
	if (path)
		json_object_set_new(j, "path", view_text(path));
	json_object_set_new(j, "text", view_text(text));
	send_message(node->master, j);
}

static void status_send(void *arg)
{
	struct master_link *m = arg;
	m->status = NULL;
	if (!m->up)
		return;
	json_t *j = message_new("status"), *sets = json_array();
	for (size_t i = 0; i < m->node->set_count; i++) {
		json_array_append_new(sets, view_own(m->node, m->node->sets[i]));
		opens_refresh(m->node, m->node->sets[i]);
	}
	json_object_set_new(j, "sets", sets);
	json_object_set_new(j, "sections", view_sections(m->node));
	send_message(m, j);
	m->status_ms = cdm_now_ms();
	if (!m->status) {
		m->status_due_ms = m->status_ms + HEARTBEAT_MS;
		m->status = cdm_loop_after(m->node->loop, HEARTBEAT_MS, status_send, m);
	}
}

/* The heartbeat is moved forward when something changed. */
static void set_changed(void *arg, struct set *set)
{
	struct master_link *m = arg;
	if (!m->up)
		return;
	int64_t now = cdm_now_ms(), due = m->status_ms + STATUS_MS;
	if (due < now + STATUS_WAIT_MS)
		due = now + STATUS_WAIT_MS;
	if (m->status && m->status_due_ms <= due)
		return;
	cdm_timer_cancel(&m->status);
	m->status_due_ms = due;
	m->status = cdm_loop_after(m->node->loop, due - now, status_send, m);
}

struct adoption { /* something the master wants to be done with one set */
	struct node *node;
	json_int_t request;
};

static void adopt_done(void *arg, json_t *answer)
{
	struct adoption *a = arg;
	json_object_set_new(answer, "type", json_string("adopted"));
	json_object_set_new(answer, "v", json_integer(1));
	json_object_set_new(answer, "request", json_integer(a->request));
	master_send(a->node, answer);
	free(a);
}

/* {"type":"adopt"} and {"type":"rescan"}: what takes its time on a set. */
static void take_errand(struct master_link *m, const json_t *message, bool rescan)
{
	const char *name = json_string_value(json_object_get(message, "set"));
	const json_t *path = json_object_get(message, "path");
	struct set *set = name ? node_set(m->node, name) : NULL;
	bool dry = json_is_true(json_object_get(message, "dry_run"));
	struct adoption *a = calloc(1, sizeof *a);
	if (!a)
		abort();
	*a = (struct adoption){.node = m->node, .request = json_integer_value(json_object_get(message, "request"))};
	if (!set)
		adopt_done(a, json_pack("{s:s, s:s}", "error", "this node's configuration has no such set", "hint",
			"add [set NAME] with its store to node.conf and reload cdm-replicator"));
	else if (rescan && json_string_length(path) && cdm_path_check(json_string_value(path), json_string_length(path)) < 0)
		adopt_done(a, json_pack("{s:s, s:s}", "error", "not a path below the set's root", "hint", "SET:a/b, or SET: for all of it"));
	else if (rescan)
		set_rescan(set, json_string_value(path) ? json_string_value(path) : "", json_string_length(path), dry, adopt_done, a);
	else
		set_adopt(set, json_string_value(json_object_get(message, "store")), dry, json_is_true(json_object_get(message, "delete")), adopt_done, a);
}

/* {"type":"hold"}: somebody decided. */
static void take_decision(struct master_link *m, const json_t *message)
{
	const char *name = json_string_value(json_object_get(message, "set")), *id = json_string_value(json_object_get(message, "hold"));
	struct set *set = name ? node_set(m->node, name) : NULL;
	struct adoption *a = calloc(1, sizeof *a);
	if (!a)
		abort();
	*a = (struct adoption){.node = m->node, .request = json_integer_value(json_object_get(message, "request"))};
	if (!set || !id)
		adopt_done(a, json_pack("{s:s, s:s}", "error", "this node's configuration has no such set", "hint", ""));
	else
		adopt_done(a, set_hold_decide(set, id, json_is_true(json_object_get(message, "approve"))));
}

/* {"type":"conflicts"} and {"type":"quarantine"}: looked at, or decided. */
static void take_kept(struct master_link *m, const json_t *message, bool conflicts)
{
	const char *name = json_string_value(json_object_get(message, "set")), *action = json_string_value(json_object_get(message, "action"));
	const char *id = json_string_value(json_object_get(message, "id"));
	struct set *set = name ? node_set(m->node, name) : NULL;
	bool dry = json_is_true(json_object_get(message, "dry_run"));
	struct adoption *a = calloc(1, sizeof *a);
	if (!a)
		abort();
	*a = (struct adoption){.node = m->node, .request = json_integer_value(json_object_get(message, "request"))};
	if (!set || !action)
		adopt_done(a, json_pack("{s:s, s:s}", "error", "this node's configuration has no such set", "hint", ""));
	else if (conflicts)
		set_conflicts(set, action, id ? id : "", dry, adopt_done, a);
	else
		set_quarantine(set, action, id ? id : "", dry, adopt_done, a);
}

/* {"type":"scrub"}: only its beginning is answered. */
static void take_scrub(struct master_link *m, const json_t *message)
{
	const char *name = json_string_value(json_object_get(message, "set"));
	struct set *set = name ? node_set(m->node, name) : NULL;
	struct adoption *a = calloc(1, sizeof *a);
	if (!a)
		abort();
	*a = (struct adoption){.node = m->node, .request = json_integer_value(json_object_get(message, "request"))};
	if (!set)
		adopt_done(a, json_pack("{s:s, s:s}", "error", "this node's configuration has no such set", "hint", ""));
	else if (json_is_true(json_object_get(message, "dry_run")))
		adopt_done(a, json_pack("{s:{}}", "result"));
	else
		adopt_done(a, set_scrub(set));
}

/* --- receiving --- */

static void take_routes(struct master_link *m, const json_t *message)
{
	struct cdm_error err = CDM_ERROR_INIT;
	int r = route_take(m->node, message, &err);
	if (r < 0)
		cdm_log_err(route_bad, &err);
	if (r == -EBADMSG)
		return;
	json_t *ok = message_new("routes_ok");
	json_object_set_new(ok, "epoch", json_integer((json_int_t)route_epoch(m->node)));
	send_message(m, ok);
}

static void take_message(struct master_link *m, const json_t *message)
{
	const char *type = json_string_value(json_object_get(message, "type"));
	if (!type)
		return;
	if (strcmp(type, "routes") == 0) {
		take_routes(m, message);
	} else if (strcmp(type, "adopt") == 0 || strcmp(type, "rescan") == 0) {
		take_errand(m, message, type[0] == 'r');
	} else if (strcmp(type, "scrub") == 0) {
		take_scrub(m, message);
	} else if (strcmp(type, "conflicts") == 0 || strcmp(type, "quarantine") == 0) {
		take_kept(m, message, type[0] == 'c');
	} else if (strcmp(type, "hold") == 0) {
		take_decision(m, message);
	} else if (strcmp(type, "certificate") == 0) {
		renew_take(m->node, message);
	} else if (strcmp(type, "error") == 0) {
		const char *text = json_string_value(json_object_get(message, "text"));
		struct cdm_error why;
		cdm_fail_plain(&why, EACCES, "the master says: %s", text ? text : "(nothing)");
		conn_finish(m->conn, &why);
	} /* what a newer master says besides is not for us */
}

static size_t master_bytes(void *arg, const uint8_t *bytes, size_t len)
{
	struct master_link *m = arg;
	struct cdm_error err;
	uint32_t be;
	if (len < sizeof be)
		return 0;
	memcpy(&be, bytes, sizeof be);
	size_t need = ntohl(be);
	if (need == 0 || need > MESSAGE_MAX) {
		cdm_fail_plain(&err, EPROTO, "a message of %zu bytes (at most %u)", need, MESSAGE_MAX);
		conn_abort(m->conn, &err);
		return len;
	}
	if (len - sizeof be < need) {
		conn_need(m->conn, sizeof be + need);
		return 0;
	}
	json_error_t jerr;
	json_t *message = json_loadb((const char *)bytes + sizeof be, need, JSON_REJECT_DUPLICATES, &jerr);
	if (json_is_object(message)) {
		take_message(m, message);
	} else {
		cdm_fail_plain(&err, EPROTO, "a message that is not JSON: %s", jerr.text);
		conn_abort(m->conn, &err);
	}
	json_decref(message);
	return sizeof be + need;
}

/* --- connection --- */

static void try_later(struct master_link *m)
{
	if (m->retry)
		return;
	m->retry = cdm_loop_after(m->node->loop, m->backoff_ms, master_dial, m);
	m->backoff_ms = m->backoff_ms * 2 > BACKOFF_MAX_MS ? BACKOFF_MAX_MS : m->backoff_ms * 2;
}

static void failed(struct master_link *m, const struct cdm_error *why)
{
	if (m->up || !m->told_down)
		cdm_log_err(master_down, why, cdm_str("addr", m->node->id->master));
	m->told_down = true;
	m->up = false;
	renew_master_down(m->node);
	cdm_timer_cancel(&m->status);
	cdm_timer_cancel(&m->deadline);
	try_later(m);
}

static void master_closed(void *arg, const struct cdm_error *why)
{
	struct master_link *m = arg;
	m->conn = NULL;
	if (m->node)
		failed(m, why);
	else
		free(m);
}

static void master_ready(void *arg)
{
	struct master_link *m = arg;
	struct cdm_tls_name peer;
	struct cdm_error err = CDM_ERROR_INIT;
	int r = conn_peer(m->conn, &peer, &err);
	if (r == 0 && peer.number != 0)
		r = cdm_fail_plain(&err, EACCES, "at %s answers node %s, not the master", m->node->id->master, peer.name);
	if (r == 0 && peer.ended)
		r = cdm_fail_plain(&err, EACCES, "the master's certificate has ended: restart cdm-master");
	if (r < 0) {
		conn_abort(m->conn, &err);
		return;
	}
	cdm_timer_cancel(&m->deadline);
	m->up = true;
	m->told_down = false;
	m->backoff_ms = BACKOFF_MIN_MS;
	cdm_log(master_up, cdm_str("addr", m->node->id->master));
	send_hello(m);
	renew_master_up(m->node);
	const struct held *h;
	for (size_t i = 0; (h = route_held(m->node, i)); i++)
		if (h->at != 0)
			send_parent(m, h->route.set, parent_now(h), "in use since before this connection");
	status_send(m);
}

static void too_slow(void *arg)
{
	struct master_link *m = arg;
	struct cdm_error err;
	m->deadline = NULL;
	cdm_fail_plain(&err, ETIMEDOUT, "no connection within %d s", CONNECT_MS / 1000);
	conn_abort(m->conn, &err);
}

static void master_resolved(void *arg, const struct sockaddr *addr, socklen_t len, const struct cdm_error *err)
{
	struct master_link *m = arg;
	char host[256], port[16];
	struct cdm_error why = CDM_ERROR_INIT;
	m->resolve = NULL;
	if (addr && conn_split_address(m->node->id->master, host, port, &why) == 0)
		m->conn = conn_connect(m->node->loop, m->node->tls_client, addr, len, host, &master_conn_ops, m, &why);
	if (m->conn)
		m->deadline = cdm_loop_after(m->node->loop, CONNECT_MS, too_slow, m);
	else
		failed(m, addr ? &why : err);
}

static void master_dial(void *arg)
{
	struct master_link *m = arg;
	m->retry = NULL;
	m->resolve = resolve_start(m->node->loop, m->node->id->master, master_resolved, m);
}

static const struct conn_ops master_conn_ops = {.ready = master_ready, .bytes = master_bytes, .closed = master_closed};

int master_new(struct node *node)
{
	struct master_link *m = calloc(1, sizeof *m);
	if (!m)
		return -ENOMEM;
	m->node = node;
	m->backoff_ms = BACKOFF_MIN_MS;
	m->watch = (struct state_watch){.fn = set_changed, .arg = m};
	node->master = m;
	state_watch(node, &m->watch);
	master_dial(m);
	return 0;
}

void master_free(struct node *node)
{
	struct master_link *m = node->master;
	node->master = NULL;
	if (!m)
		return;
	state_unwatch(node, &m->watch);
	cdm_timer_cancel(&m->retry);
	cdm_timer_cancel(&m->status);
	cdm_timer_cancel(&m->deadline);
	resolve_cancel(&m->resolve);
	m->node = NULL;
	m->up = false;
	if (m->conn)
		conn_finish(m->conn, NULL);
	else
		free(m);
}
