/* SPDX-License-Identifier: Apache-2.0 */
/* Nodes of one process on one loop, linked over loopback with certificates of a test authority; a set here is a counter of what it is
 * told (the real one is replicator/set.c). */
#include <arpa/inet.h>
#include <errno.h>
#include <ftw.h>
#include <netinet/in.h>
#include <poll.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include <cmocka.h>
#include <openssl/pem.h>
#include <openssl/x509v3.h>

#include "common/tls.h"
#include "replicator/control.h"
#include "replicator/fetch.h"
#include "replicator/links.h"
#include "replicator/opens.h"
#include "replicator/pack.h"
#include "replicator/route.h"
#include "replicator/set.h"
#include "replicator/state.h"
#include "replicator/wire_codec.h"

#define PIECE (100u << 10)
#define PIECES 100u

struct set {
	struct node *node;
	struct link *parent, *child; /* carried by these now */
	bool parent_began, child_began; /* and the other side began its session when we did */
	struct link *to_begin;
	unsigned ups, downs, drained;
	uint64_t frames, bytes, sent_bytes;
	uint32_t next;               /* expected number of the next FRAME_DATA */
	bool pause_once;
	struct link *paused;
	struct cdm_vector vector;
	unsigned to_send;
};

/* Content of pieces: random bytes; `mixed`: in turn text, random and zeros. */
static const char *sections; /* JSON: goes into the tables */
static unsigned detour;      /* port by which the first node is reached */
static bool mixed;

static const uint8_t *piece_of(uint32_t number)
{
	static uint8_t piece[PIECE];
	uint64_t x = number + 1;
	for (size_t i = 0; i + 8 <= PIECE; i += 8) {
		x ^= x << 13, x ^= x >> 7, x ^= x << 17;
		if (mixed && number % 3 == 0)
			memcpy(piece + i, i % 24 ? "harmless" : "<li>text", 8), piece[i] = (uint8_t)('a' + x % 16);
		else if (mixed && number % 3 == 1)
			memset(piece + i, 0, 8);
		else
			memcpy(piece + i, &x, 8);
	}
	return piece;
}

static struct cdm_loop *loop;
static char dir[] = "/tmp/cdm-test-link-XXXXXX";

/* --- the set that the link layer talks to --- */

int set_new(struct node *node, const struct cdm_set_conf *conf, struct set **ret, struct cdm_error *err)
{
	*ret = calloc(1, sizeof **ret);
	(*ret)->node = node;
	return 0;
}
void set_free(struct set **s)
{
	cdm_vector_fini(&(*s)->vector);
	free(*s);
	*s = NULL;
}
const char *set_name(const struct set *s)
{
	return "www";
}
struct node *set_node(const struct set *s)
{
	return s->node;
}
void set_route(struct set *s, const struct route *route)
{
}
const struct route *set_get_route(const struct set *s)
{
	return route_of(s->node, "www");
}
/* As the real one does once the link carries the set. */
static void begin(void *arg)
{
	struct set *s = arg;
	if (s->to_begin)
		link_send(s->to_begin, s, FRAME_SUBSCRIBE, 0, "begin", 5, NULL, 0);
	s->to_begin = NULL;
}
void set_link_up(struct set *s, struct link *l, bool towards_parent)
{
	s->ups++;
	*(towards_parent ? &s->parent : &s->child) = l;
	*(towards_parent ? &s->parent_began : &s->child_began) = false;
	begin(s); /* an earlier one that is not yet done */
	s->to_begin = l;
	cdm_loop_post(loop, begin, s);
}
void set_link_down(struct set *s, struct link *l)
{
	s->downs++;
	if (s->parent == l)
		s->parent = NULL;
	if (s->child == l)
		s->child = NULL;
	if (s->paused == l)
		s->paused = NULL;
	if (s->to_begin == l)
		s->to_begin = NULL;
}
int set_frame(struct set *s, struct link *l, enum frame_type type, uint8_t flags, const uint8_t *payload, size_t len,
	struct cdm_error *err)
{
	uint32_t number = 0;
	if (type == FRAME_SUBSCRIBE) {
		*(l == s->parent ? &s->parent_began : &s->child_began) = true;
		return 0;
	}
	if (len >= 4)
		memcpy(&number, payload, 4);
	if (number != s->next)
		return cdm_fail_plain(err, EPROTO, "piece %u instead of %u", number, s->next);
	if (len != PIECE + 4 || memcmp(payload + 4, piece_of(number), PIECE) != 0)
		return cdm_fail_plain(err, EPROTO, "piece %u came as another", number);
	s->next++;
	s->frames++;
	s->bytes += len;
	if (s->pause_once) {
		s->pause_once = false;
		s->paused = l;
		link_pause(l);
	}
	return 0;
}
static void send_pieces(struct set *s, struct link *l)
{
	while (s->to_send > 0 && link_queued(l) < LINK_QUEUE_HIGH) {
		uint32_t number = PIECES - s->to_send--;
		link_send(l, s, FRAME_DATA, 0, &number, sizeof number, piece_of(number), PIECE);
	}
}
void set_link_drained(struct set *s, struct link *l)
{
	s->drained++;
	send_pieces(s, l);
}
int fetch_frame(struct node *node, struct link *l, enum frame_type type, const uint8_t *payload, size_t len, struct cdm_error *err)
{
	return 0;
}
void fetch_link_gone(struct node *node, struct link *l)
{
}
void feed_link_drained(struct node *node, struct link *l)
{
}
void set_get_state(struct set *s, struct set_state *ret)
{
	*ret = (struct set_state){.visible = s->vector, .durable = s->vector, .state = "ok"};
}
double set_journal_full_s(struct set *s)
{
	return -1;
}

void set_pending(struct set *s, const struct cdm_vector *vector, struct set_pending *ret)
{
	*ret = (struct set_pending){0};
}
void set_barrier(struct set *s, set_barrier_fn *done, void *arg)
{
	done(arg, 0, &s->vector);
}
json_t *set_why(struct set *s, const char *path, size_t len, const json_t *open, struct cdm_dot *ret_carrier)
{
	return json_object();
}
void set_adopt(struct set *s, const char *store, bool dry, bool remove, set_adopt_fn *done, void *arg)
{
	done(arg, json_object());
}
json_t *set_holds(struct set *s)
{
	return json_array();
}

json_t *set_hold_decide(struct set *s, const char *id, bool approve)
{
	return json_pack("{s:s}", "error", "nothing is held");
}

void set_rescan(struct set *s, const char *path, size_t len, bool dry, set_adopt_fn *done, void *arg)
{
	done(arg, json_object());
}
void set_sent(struct set *s, uint64_t bytes)
{
	s->sent_bytes += bytes;
}
json_t *set_stats(struct set *s)
{
	return json_object();
}

/* --- nodes --- */

static EVP_PKEY *ca_key;
static X509 *ca_cert;

static X509 *make_cert(EVP_PKEY *key, const char *name, unsigned number, X509 *issuer, EVP_PKEY *issuer_key)
{
	X509 *x = X509_new();
	char uri[64];
	X509_set_version(x, X509_VERSION_3);
	ASN1_INTEGER_set(X509_get_serialNumber(x), number + 1000);
	X509_gmtime_adj(X509_getm_notBefore(x), -60);
	X509_gmtime_adj(X509_getm_notAfter(x), 3600);
	X509_NAME_add_entry_by_txt(X509_get_subject_name(x), "CN", MBSTRING_UTF8, (const unsigned char *)name, -1, -1, 0);
	X509_set_issuer_name(x, X509_get_subject_name(issuer ? issuer : x));
	X509_set_pubkey(x, key);
	snprintf(uri, sizeof uri, "URI:cdmfs:node:%u", number);
	X509_EXTENSION *e = number ? X509V3_EXT_conf_nid(NULL, NULL, NID_subject_alt_name, uri)
				   : X509V3_EXT_conf_nid(NULL, NULL, NID_basic_constraints, "critical,CA:TRUE");
	X509_add_ext(x, e, -1);
	X509_EXTENSION_free(e);
	assert_true(X509_sign(x, issuer_key, EVP_sha256()) > 0);
	return x;
}

static void write_text(const char *path, const char *text)
{
	FILE *f = fopen(path, "w");
	assert_non_null(f);
	fputs(text, f);
	fclose(f);
}

static void write_cert(const char *path, X509 *x)
{
	FILE *f = fopen(path, "w");
	assert_non_null(f);
	PEM_write_X509(f, x);
	fclose(f);
}

static void make_files(char *state, const char *name, unsigned number, X509 *issuer, EVP_PKEY *issuer_key)
{
	char path[256], *pem = NULL;
	EVP_PKEY *key = cdm_tls_key_new(NULL);
	X509 *cert = make_cert(key, name, number, issuer, issuer_key);
	mkdir(state, 0700);
	snprintf(path, sizeof path, "%s/node.crt", state);
	write_cert(path, cert);
	snprintf(path, sizeof path, "%s/ca.crt", state);
	write_cert(path, ca_cert);
	assert_int_equal(cdm_tls_key_pem(key, &pem, NULL), 0);
	snprintf(path, sizeof path, "%s/node.key", state);
	write_text(path, pem);
	free(pem);
	X509_free(cert);
	EVP_PKEY_free(key);
}

static void load_contexts(struct node *n)
{
	char cert[256], key[256], ca[256];
	snprintf(cert, sizeof cert, "%s/node.crt", n->conf->state);
	snprintf(key, sizeof key, "%s/node.key", n->conf->state);
	snprintf(ca, sizeof ca, "%s/ca.crt", n->conf->state);
	n->tls_client = cdm_tls_context(cert, key, ca, false, NULL);
	n->tls_server = cdm_tls_context(cert, key, ca, true, NULL);
	assert_non_null(n->tls_client);
	assert_non_null(n->tls_server);
}

/* Name "nN"; port 0: any. foreign: its certificate comes from another authority of the same name. */
static struct node *node_make(unsigned number, unsigned port, bool foreign)
{
	struct node *n = calloc(1, sizeof *n);
	char *text;
	n->loop = loop;
	n->instance = (uint64_t)cdm_wall_ns();
	n->features = WIRE_FEATURES;
	n->conf = calloc(1, sizeof *n->conf);
	n->id = calloc(1, sizeof *n->id);
	n->id->number = number;
	assert_true(asprintf(&n->id->node, "n%u", number) > 0);
	assert_true(asprintf(&n->conf->state, "%s/n%u", dir, number) > 0);
	assert_true(asprintf(&text, "127.0.0.1:%u", port) > 0);
	n->conf->listen = text;
	EVP_PKEY *key = foreign ? cdm_tls_key_new(NULL) : NULL;
	X509 *other = foreign ? make_cert(key, "test authority", 0, NULL, key) : NULL;
	make_files(n->conf->state, n->id->node, number, foreign ? other : ca_cert, foreign ? key : ca_key);
	X509_free(other);
	EVP_PKEY_free(key);
	load_contexts(n);
	assert_int_equal(dialer_new(n), 0);
	assert_int_equal(state_new(n), 0);
	assert_int_equal(route_new(n, NULL), 0);
	assert_int_equal(listener_new(n, NULL), 0);
	n->sets = calloc(1, sizeof *n->sets);
	n->set_count = 1;
	set_new(n, NULL, &n->sets[0], NULL);
	return n;
}

/* --- waiting --- */

typedef bool condition_fn(struct node **nodes);
static condition_fn *condition;
static struct node **condition_nodes;
static bool condition_met, condition_over;
static int64_t condition_end;

static void look(void *arg)
{
	condition_met = condition(condition_nodes);
	condition_over = condition_met || cdm_now_ms() > condition_end;
	if (condition_over)
		cdm_loop_stop(loop);
	else
		cdm_loop_after(loop, 2, look, NULL);
}

static bool wait_for(condition_fn *fn, struct node **nodes, int64_t ms)
{
	condition = fn;
	condition_nodes = nodes;
	condition_end = cdm_now_ms() + ms;
	cdm_loop_after(loop, 0, look, NULL);
	condition_over = false;
	while (!condition_over) /* a node whose last link is gone stops the loop, too */
		cdm_loop_run(loop);
	return condition_met;
}

static bool no_links(struct node **n)
{
	return n[0]->link_count == 0;
}

static void node_end(struct node **pn)
{
	struct node *n = *pn;
	n->stopping = true;
	listener_free(n);
	dialer_free(n);
	for (size_t i = 0; i < n->link_count; i++)
		link_end(n->links[i], "test ends");
	assert_true(wait_for(no_links, &n, 5000));
	set_free(&n->sets[0]);
	state_free(n);
	route_free(n);
	SSL_CTX_free(n->tls_client);
	SSL_CTX_free(n->tls_server);
	free(n->id->node);
	free(n->id);
	free(n->conf->state);
	free(n->conf->listen);
	free(n->conf);
	free(n->sets);
	free(n->links);
	free(n);
	*pn = NULL;
}

/* One table for a node: members are all of `nodes` but `leave_out`. */
static void give_route(struct node *n, struct node **nodes, size_t count, const char *parent, const char *alternate, struct node *leave_out)
{
	static json_int_t epoch;
	json_t *members = json_array(), *set, *table;
	for (size_t i = 0; i < count; i++) {
		char addr[64];
		if (nodes[i] == leave_out)
			continue;
		snprintf(addr, sizeof addr, "127.0.0.1:%u", i == 0 && detour ? detour : listener_port(nodes[i]));
		json_array_append_new(members, json_pack("{s:s, s:i, s:s, s:s, s:s, s:s, s:s}", "name", nodes[i]->id->node, "number",
			(int)nodes[i]->id->number, "addr", addr, "role", "both", "group", "g", "region", "r", "state", "active"));
	}
	set = json_pack("{s:s, s:i, s:o, s:s, s:s?}", "name", "www", "id", 1, "members", members, "role", "both", "parent", parent);
	json_object_set_new(set, "neighbours_only", json_true()); /* no ring: links are those between parent and child */
	json_object_set_new(set, "alternates", alternate ? json_pack("[s]", alternate) : json_array());
	table = json_pack("{s:I, s:s, s:[o]}", "epoch", ++epoch, "node", n->id->node, "sets", set);
	if (sections)
		json_object_set_new(table, "sections", json_loads(sections, 0, NULL));
	struct cdm_error err = CDM_ERROR_INIT;
	int r = route_take(n, table, &err);
	if (r < 0)
		fail_msg("%s", err.text);
	json_decref(table);
}

static bool first_two_carry(struct node **n)
{
	return n[1]->sets[0]->parent && n[0]->sets[0]->child;
}

struct seen {
	const char *name;
	bool found, down;
	uint64_t number;
};

static void see(void *arg, const struct peer_state *p)
{
	struct seen *s = arg;
	if (strcmp(p->member->name, s->name) != 0)
		return;
	s->found = p->known;
	s->down = p->down;
	s->number = cdm_vector_get(p->durable, CDM_ORIGIN(1, 1));
}

static struct seen seen_at(struct node *n, const char *name)
{
	struct seen s = {.name = name};
	state_each(n, n->sets[0], see, &s);
	return s;
}

/* --- tests --- */

static void child_dials_parent_and_both_carry_the_set(void **state)
{
	struct node *n[2] = {node_make(1, 0, false), node_make(2, 0, false)};
	give_route(n[0], n, 2, NULL, NULL, NULL);
	give_route(n[1], n, 2, "n1", NULL, NULL);
	assert_true(wait_for(first_two_carry, n, 5000));
	assert_string_equal(link_peer_name(n[1]->sets[0]->parent), "n1");
	assert_int_equal(link_peer_number(n[0]->sets[0]->child), 2);
	node_end(&n[1]);
	assert_int_equal(n[0]->sets[0]->child != NULL, false);
	node_end(&n[0]);
}

static bool all_arrived(struct node **n)
{
	return n[1]->sets[0]->frames == PIECES;
}

static bool receiver_paused(struct node **n)
{
	return n[1]->sets[0]->paused && n[0]->sets[0]->to_send > 0 && link_queued(n[0]->sets[0]->child) >= LINK_QUEUE_LOW;
}

static void pause_and_go_on(const char *use)
{
	sections = use;
	struct node *n[2] = {node_make(1, 0, false), node_make(2, 0, false)};
	give_route(n[0], n, 2, NULL, NULL, NULL);
	give_route(n[1], n, 2, "n1", NULL, NULL);
	assert_true(wait_for(first_two_carry, n, 5000));
	struct set *a = n[0]->sets[0], *b = n[1]->sets[0];
	b->pause_once = true;
	a->to_send = PIECES;
	send_pieces(a, a->child);
	assert_true(wait_for(receiver_paused, n, 5000));
	assert_int_equal(b->frames, 1);
	assert_true(link_queued(a->child) <= LINK_QUEUE_HIGH + PIECE + 64);
	link_resume(b->paused);
	assert_true(wait_for(all_arrived, n, 10000));
	assert_int_equal(b->bytes, (PIECE + 4) * PIECES);
	assert_true(a->drained > 0);
	assert_non_null(b->parent);
	sections = NULL;
	node_end(&n[0]);
	node_end(&n[1]);
}

static void a_paused_receiver_stops_the_sender_and_nothing_is_lost(void **state)
{
	pause_and_go_on(NULL);
	pause_and_go_on("{\"group\":{\"encryption\":false}}");
}

static bool third_knows_first(struct node **n)
{
	return seen_at(n[2], "n1").number == 7 && seen_at(n[0], "n3").found && seen_at(n[1], "n3").found;
}

static bool first_sees_third_down(struct node **n)
{
	return seen_at(n[0], "n3").down && !seen_at(n[0], "n2").down;
}

static void states_flood_over_a_relay_and_a_lost_leaf_is_told(void **state)
{
	struct node *n[3] = {node_make(1, 0, false), node_make(2, 0, false), node_make(3, 0, false)};
	give_route(n[0], n, 3, NULL, NULL, NULL);
	give_route(n[1], n, 3, "n1", NULL, NULL);
	give_route(n[2], n, 3, "n2", NULL, NULL);
	cdm_vector_raise(&n[0]->sets[0]->vector, (struct cdm_dot){CDM_ORIGIN(1, 1), 7});
	state_changed(n[0]->sets[0]);
	assert_true(wait_for(third_knows_first, n, 5000));
	node_end(&n[2]);
	struct node *left[3] = {n[0], n[1], NULL};
	assert_true(wait_for(first_sees_third_down, left, 2000));
	node_end(&n[0]);
	node_end(&n[1]);
}

static bool third_hangs_on_alternate(struct node **n)
{
	struct link *l = n[2]->sets[0]->parent;
	return l && strcmp(link_peer_name(l), "n2") == 0;
}

static bool third_hangs_on_first(struct node **n)
{
	struct link *l = n[2]->sets[0]->parent;
	return l && strcmp(link_peer_name(l), "n1") == 0 && !n[2]->sets[0]->child;
}

static void a_lost_parent_is_replaced_by_the_alternate_and_taken_back(void **state)
{
	struct node *n[3] = {node_make(1, 0, false), node_make(2, 0, false), node_make(3, 0, false)};
	unsigned port = listener_port(n[0]);
	give_route(n[0], n, 3, NULL, NULL, NULL);
	give_route(n[1], n, 3, NULL, NULL, NULL);
	give_route(n[2], n, 3, "n1", "n2", NULL);
	assert_true(wait_for(third_hangs_on_first, n, 5000));
	node_end(&n[0]);
	assert_true(wait_for(third_hangs_on_alternate, n, 6000));
	n[0] = node_make(1, port, false);
	give_route(n[0], n, 3, NULL, NULL, NULL);
	assert_true(wait_for(third_hangs_on_first, n, 10000));
	for (int i = 0; i < 3; i++)
		node_end(&n[i]);
}

static bool refused_second(struct node **n)
{
	const char *why = dialer_why(n[1], "n1");
	return why && strstr(why, "no member");
}

static bool second_left_first(struct node **n)
{
	return !n[0]->sets[0]->child || n[0]->sets[0]->child != link_find_up(n[0], "n2");
}

static bool first_asked_second(struct node **n)
{
	return n[0]->sets[0]->parent && n[0]->sets[0]->parent_began;
}

static bool first_hangs_on_second(struct node **n)
{
	struct set *first = n[0]->sets[0], *second = n[1]->sets[0];
	return first->parent && strcmp(link_peer_name(first->parent), "n2") == 0 && first->parent_began && second->child && second->child_began &&
		second->parent && strcmp(link_peer_name(second->parent), "n3") == 0;
}

/* Whoever hears of it first, and when both tell each other at once. */
static void parent_and_child_change_places(void **state)
{
	for (int order = 0; order < 3; order++) {
		struct node *n[3] = {node_make(1, 0, false), node_make(2, 0, false), node_make(3, 0, false)};
		give_route(n[0], n, 3, NULL, NULL, NULL);
		give_route(n[1], n, 3, "n1", NULL, NULL);
		give_route(n[2], n, 3, "n1", NULL, NULL);
		assert_true(wait_for(first_two_carry, n, 5000));
		give_route(n[2], n, 3, NULL, NULL, NULL);
		if (order == 1)
			give_route(n[1], n, 3, "n3", "n1", NULL);
		if (order == 1)
			assert_true(wait_for(second_left_first, n, 5000));
		give_route(n[0], n, 3, "n2", "n3", NULL);
		if (order == 0)
			assert_true(wait_for(first_asked_second, n, 5000));
		if (order != 1)
			give_route(n[1], n, 3, "n3", "n1", NULL);
		assert_true(wait_for(first_hangs_on_second, n, 5000));
		for (int i = 0; i < 3; i++)
			node_end(&n[i]);
	}
}

static void a_node_that_is_no_member_is_refused_with_a_reason(void **state)
{
	struct node *n[2] = {node_make(1, 0, false), node_make(2, 0, false)};
	give_route(n[0], n, 2, NULL, NULL, n[1]);
	give_route(n[1], n, 2, "n1", NULL, NULL);
	assert_true(wait_for(refused_second, n, 5000));
	assert_int_equal(n[0]->sets[0]->ups, 0);
	node_end(&n[1]);
	node_end(&n[0]);
}

static bool refused_foreign(struct node **n)
{
	return dialer_why(n[1], "n1") != NULL;
}

static void a_certificate_of_another_authority_is_refused(void **state)
{
	struct node *n[2] = {node_make(1, 0, false), node_make(2, 0, true)};
	give_route(n[0], n, 2, NULL, NULL, NULL);
	give_route(n[1], n, 2, "n1", NULL, NULL);
	assert_true(wait_for(refused_foreign, n, 5000));
	assert_int_equal(n[0]->sets[0]->ups + n[1]->sets[0]->ups, 0);
	node_end(&n[1]);
	node_end(&n[0]);
}

static bool second_was_down_and_up(struct node **n)
{
	return n[0]->sets[0]->downs > 0 && n[0]->sets[0]->child && n[1]->sets[0]->parent;
}

static void a_frame_that_cannot_be_used_ends_the_link_which_comes_back(void **state)
{
	struct node *n[2] = {node_make(1, 0, false), node_make(2, 0, false)};
	give_route(n[0], n, 2, NULL, NULL, NULL);
	give_route(n[1], n, 2, "n1", NULL, NULL);
	assert_true(wait_for(first_two_carry, n, 5000));
	uint32_t wrong = 99;
	link_send(n[1]->sets[0]->parent, n[1]->sets[0], FRAME_DATA, 0, &wrong, sizeof wrong, NULL, 0);
	assert_true(wait_for(second_was_down_and_up, n, 5000));
	node_end(&n[1]);
	node_end(&n[0]);
}

static bool both_dialled_one_left(struct node **n)
{
	return first_two_carry(n) && n[0]->sets[0]->parent && n[1]->sets[0]->child && n[0]->link_count == 1 && n[1]->link_count == 1;
}

static void when_both_dial_one_link_is_left(void **state)
{
	struct node *n[2] = {node_make(1, 0, false), node_make(2, 0, false)};
	give_route(n[0], n, 2, "n2", NULL, NULL);
	give_route(n[1], n, 2, "n1", NULL, NULL);
	n[0]->sets[0]->child = NULL;
	condition_fn *fn = both_dialled_one_left;
	bool one = wait_for(fn, n, 5000);
	if (!one) /* both asked on the one link: it is the parent for both */
		one = n[0]->link_count == 1 && n[1]->link_count == 1 && n[0]->sets[0]->parent && n[1]->sets[0]->parent;
	assert_true(one);
	node_end(&n[1]);
	node_end(&n[0]);
}

/* --- sections --- */

#define LINK_SECTION(compression, encryption, rate) \
	"{\"group\":{\"compression\":" #compression ",\"encryption\":" #encryption ",\"rate\":" #rate "}}"

/* Two nodes, the second is the child of the first; `use` is in force from the start. */
static void pair_make(struct node *n[2], const char *use, uint32_t features)
{
	sections = use;
	n[0] = node_make(1, 0, false);
	n[1] = node_make(2, 0, false);
	n[1]->features = features;
	give_route(n[0], n, 2, NULL, NULL, NULL);
	give_route(n[1], n, 2, "n1", NULL, NULL);
	assert_true(wait_for(first_two_carry, n, 5000));
}

static void pair_use(struct node *n[2], const char *use)
{
	sections = use;
	give_route(n[0], n, 2, NULL, NULL, NULL);
	give_route(n[1], n, 2, "n1", NULL, NULL);
}

static void pair_end(struct node *n[2])
{
	sections = NULL;
	mixed = false;
	node_end(&n[1]);
	node_end(&n[0]);
}

static void send_all(struct node *n[2])
{
	struct set *a = n[0]->sets[0];
	a->to_send = PIECES;
	n[1]->sets[0]->frames = n[1]->sets[0]->next = 0;
	send_pieces(a, a->child);
}

static void expect_all(struct node *n[2])
{
	assert_true(wait_for(all_arrived, n, 20000));
	assert_int_equal(n[0]->sets[0]->downs + n[1]->sets[0]->downs, 0);
}

static void frames_arrive_equal_at_every_level_and_by_every_method(void **state)
{
	static const char *const levels[] = {LINK_SECTION(0, true, 0), LINK_SECTION(1, true, 0), LINK_SECTION(6, true, 0), LINK_SECTION(9, true, 0)};
	static const uint32_t features[] = {WIRE_FEATURES, WIRE_FEATURE_ZLIB, 0};
	for (unsigned f = 0; f < 3; f++) {
		struct node *n[2];
		mixed = true;
		pair_make(n, levels[0], features[f]);
		for (unsigned i = 0; i < 5; i++) { /* on one link; back to none at the end */
			pair_use(n, levels[i % 4]);
			struct section_cost before = n[0]->section_costs[SECTION_GROUP], *now = &n[0]->section_costs[SECTION_GROUP];
			send_all(n);
			expect_all(n);
			uint64_t raw = now->raw_bytes - before.raw_bytes, sent = now->compressed_bytes - before.compressed_bytes;
			assert_true(raw >= PIECES * (uint64_t)PIECE);
			if (i % 4 == 0 || !features[f])
				assert_int_equal(sent, raw);
			else
				assert_true(sent < raw / 2); /* a third is random */
		}
		pair_end(n);
	}
}

static void random_content_goes_as_it_is(void **state)
{
	struct node *n[2];
	pair_make(n, LINK_SECTION(6, true, 0), WIRE_FEATURES);
	send_all(n);
	expect_all(n);
	const struct section_cost *c = &n[0]->section_costs[SECTION_GROUP];
	assert_true(c->raw_bytes >= PIECES * (uint64_t)PIECE);
	assert_int_equal(c->compressed_bytes, c->raw_bytes);
	links_account(n[0]);
	assert_true(c->wire_bytes > c->raw_bytes && n[0]->sets[0]->sent_bytes > c->raw_bytes);
	pair_end(n);
}

static void a_compressed_frame_that_does_not_hold_ends_the_link(void **state)
{
	struct node *n[2];
	pair_make(n, NULL, WIRE_FEATURES);
	for (unsigned i = 0; i < 2 * 6; i++) {
		uint8_t packed[1024], content[500];
		enum pack_method method = i % 2 ? PACK_ZSTD : PACK_ZLIB;
		struct packer *p = packer_new(method);
		memset(content, 'x', sizeof content);
		uint32_t len = (uint32_t)packer_pack(p, 6, content, sizeof content, NULL, 0, packed);
		packer_free(&p);
		uint8_t flags = method == PACK_ZSTD ? WIRE_FLAG_ZSTD : WIRE_FLAG_ZLIB;
		const uint32_t says[6] = {sizeof content - 1, sizeof content + 1, 0, FRAME_PAYLOAD_MAX + 1, sizeof content, sizeof content};
		memcpy(packed, &says[i / 2], sizeof says[0]);
		if (i / 2 == 4)
			memset(packed + PACK_HEAD, 0xff, len - PACK_HEAD);
		if (i / 2 == 5)
			flags = WIRE_FLAG_ZSTD | WIRE_FLAG_ZLIB;
		n[0]->sets[0]->downs = n[1]->sets[0]->downs = 0;
		link_send(n[1]->sets[0]->parent, n[1]->sets[0], FRAME_DATA, flags, packed, len, NULL, 0);
		assert_true(wait_for(second_was_down_and_up, n, 5000));
	}
	pair_end(n);
}

static bool some_arrived(struct node **n)
{
	return n[1]->sets[0]->frames >= PIECES / 10;
}

static bool no_switch_is_under_way(struct node **n)
{
	return all_arrived(n) && link_queued(n[0]->sets[0]->child) == 0;
}

static void protection_changes_while_frames_flow(void **state)
{
	static const char *const turns[] = {LINK_SECTION(0, true, 0), LINK_SECTION(1, false, 0), LINK_SECTION(0, false, 0), LINK_SECTION(6, true, 0)};
	struct node *n[2];
	mixed = true;
	pair_make(n, turns[1], WIRE_FEATURES);
	for (unsigned i = 0; i < 40; i++) {
		if (i % 4 == 0)
			send_all(n);
		pair_use(n, turns[i % 4]);
		if (i % 2)
			pair_use(n, turns[(i + 1) % 4]); /* before the first one is through */
		assert_true(wait_for(i % 4 == 3 ? no_switch_is_under_way : some_arrived, n, 20000));
	}
	expect_all(n);
	pair_end(n);
}

/* Between the first node and whoever dials it: a thread that passes bytes on, looks for readable text, and changes one byte when told to. */
struct detour {
	int fd;
	unsigned to;
	_Atomic bool change, readable;
	pthread_t thread;
};

static int connect_to(unsigned port)
{
	struct sockaddr_in addr = {.sin_family = AF_INET, .sin_port = htons((uint16_t)port), .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
	int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
	if (connect(fd, (struct sockaddr *)&addr, sizeof addr) == 0)
		return fd;
	close(fd);
	return -1;
}

static bool pass_on(struct detour *d, int from, int to, bool down)
{
	static uint8_t bytes[64 << 10];
	ssize_t n = read(from, bytes, sizeof bytes);
	if (n <= 0)
		return false;
	if (down && memmem(bytes, (size_t)n, "armless", 7))
		d->readable = true;
	if (down && n > 8192 && d->change) {
		bytes[n / 2] ^= 0x10;
		d->change = false;
	}
	for (ssize_t at = 0, w; at < n; at += w)
		if ((w = write(to, bytes + at, (size_t)(n - at))) <= 0)
			return false;
	return true;
}

static void *detour_thread(void *arg)
{
	struct detour *d = arg;
	for (int in; (in = accept(d->fd, NULL, NULL)) >= 0; close(in)) {
		int out = connect_to(d->to);
		struct pollfd p[2] = {{.fd = in, .events = POLLIN}, {.fd = out, .events = POLLIN}};
		while (out >= 0 && poll(p, 2, -1) > 0)
			if ((p[0].revents && !pass_on(d, in, out, false)) || (p[1].revents && !pass_on(d, out, in, true)))
				break;
		close(out);
	}
	return NULL;
}

static void detour_begin(struct detour *d, unsigned to)
{
	struct sockaddr_in addr = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
	socklen_t len = sizeof addr;
	*d = (struct detour){.to = to, .fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0)};
	assert_int_equal(bind(d->fd, (struct sockaddr *)&addr, sizeof addr) + listen(d->fd, 8), 0);
	getsockname(d->fd, (struct sockaddr *)&addr, &len);
	detour = ntohs(addr.sin_port);
	assert_int_equal(pthread_create(&d->thread, NULL, detour_thread, d), 0);
}

static void detour_end(struct detour *d)
{
	detour = 0;
	shutdown(d->fd, SHUT_RDWR);
	pthread_join(d->thread, NULL);
	close(d->fd);
}

static void without_encryption_bytes_can_be_read_but_not_changed(void **state)
{
	struct node *n[2] = {node_make(1, 0, false), node_make(2, 0, false)};
	struct detour d;
	detour_begin(&d, listener_port(n[0]));
	mixed = true;
	pair_use(n, LINK_SECTION(0, true, 0));
	assert_true(wait_for(first_two_carry, n, 5000));
	send_all(n);
	expect_all(n);
	assert_false(d.readable);
	pair_use(n, LINK_SECTION(0, false, 0));
	send_all(n);
	expect_all(n);
	assert_true(d.readable);
	d.change = true;
	send_all(n);
	n[0]->sets[0]->to_send = 0; /* what was queued is enough */
	assert_true(wait_for(second_was_down_and_up, n, 5000));
	assert_false(d.change);
	assert_int_not_equal(n[1]->sets[0]->frames, PIECES);
	pair_end(n);
	detour_end(&d);
}

static void an_older_peer_gets_plain_frames_in_tls(void **state)
{
	struct node *n[2];
	mixed = true;
	pair_make(n, LINK_SECTION(9, false, 0), 0);
	send_all(n);
	expect_all(n);
	assert_int_equal(n[0]->section_costs[SECTION_GROUP].compressed_bytes, n[0]->section_costs[SECTION_GROUP].raw_bytes);
	pair_end(n);
}

static void a_limited_link_sends_no_faster_and_a_new_limit_counts_at_once(void **state)
{
	struct node *n[2];
	pair_make(n, LINK_SECTION(0, true, 2000000), WIRE_FEATURES);
	links_account(n[0]);
	uint64_t before = n[0]->section_costs[SECTION_GROUP].wire_bytes;
	int64_t start = cdm_now_ms();
	send_all(n);
	assert_true(wait_for(some_arrived, n, 20000));
	links_account(n[0]);
	uint64_t sent = n[0]->section_costs[SECTION_GROUP].wire_bytes - before;
	uint64_t may = (uint64_t)(cdm_now_ms() - start + 1) * 2000 + 2000000 * 30 / 1000;
	assert_true(sent > PIECES / 10 * PIECE);
	assert_true(sent <= may + 1024); /* the last record's own bytes */
	pair_use(n, LINK_SECTION(0, true, 1));
	pair_use(n, LINK_SECTION(0, true, 0));
	expect_all(n);
	pair_end(n);
}

static void a_table_with_bad_sections_changes_nothing(void **state)
{
	static const char *const bad[] = {"[]", "{\"group\":{\"compression\":10}}", "{\"region\":{\"encryption\":1}}"};
	struct node *n[2];
	pair_make(n, LINK_SECTION(2, true, 0), WIRE_FEATURES);
	for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
		struct cdm_error err = CDM_ERROR_INIT;
		json_t *j = json_pack("{s:i, s:s, s:[], s:o}", "epoch", 1000, "node", "n1", "sets", "sections", json_loads(bad[i], 0, NULL));
		assert_int_equal(route_take(n[0], j, &err), -EBADMSG);
		assert_non_null(strstr(err.text, "section"));
		json_decref(j);
	}
	assert_int_equal(link_section(n[0]->sets[0]->child)->compression, 2);
	pair_end(n);
}

/* --- control socket: a client in a thread, the loop here --- */

struct asking {
	char path[300], request[256], answer[4096];
	_Atomic bool done;
};

static void *ask_thread(void *arg)
{
	struct asking *a = arg;
	struct sockaddr_un addr = {.sun_family = AF_UNIX};
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	size_t len = 0;
	memcpy(addr.sun_path, a->path, strlen(a->path) + 1);
	if (connect(fd, (struct sockaddr *)&addr, sizeof addr) == 0 && write(fd, a->request, strlen(a->request)) > 0)
		for (ssize_t n; len < sizeof a->answer - 1 && (n = read(fd, a->answer + len, sizeof a->answer - 1 - len)) > 0;) {
			len += (size_t)n;
			if (memchr(a->answer, '\n', len))
				break;
		}
	close(fd);
	a->done = true;
	return NULL;
}

static struct asking *asking_now;

static bool answered(struct node **n)
{
	return asking_now->done;
}

static void second_has_it_too(void *arg)
{
	struct node *n = arg;
	cdm_vector_raise(&n->sets[0]->vector, (struct cdm_dot){CDM_ORIGIN(1, 1), 7});
	state_changed(n->sets[0]);
}

/* Asks n[0]; `later`, if given, happens to it after 50 ms. */
static json_t *ask(struct node **n, const char *request, cdm_loop_fn *later, void *arg)
{
	struct asking a = {.done = false};
	pthread_t thread;
	asking_now = &a;
	snprintf(a.path, sizeof a.path, "%s", n[0]->conf->control);
	snprintf(a.request, sizeof a.request, "%s\n", request);
	if (later)
		cdm_loop_after(loop, 50, later, arg);
	assert_int_equal(pthread_create(&thread, NULL, ask_thread, &a), 0);
	assert_true(wait_for(answered, n, 8000));
	pthread_join(thread, NULL);
	json_t *j = json_loads(a.answer, 0, NULL);
	assert_non_null(j);
	assert_true(json_is_true(json_object_get(j, "end")));
	return j;
}

static void expect(json_t *answer, const char *key, const char *value)
{
	const char *got = json_string_value(json_object_get(answer, key));
	if (!got || strcmp(got, value) != 0)
		fail_msg("%s is %s, not %s", key, got ? got : "missing", value);
}

static bool second_is_known(struct node **n)
{
	return first_two_carry(n) && seen_at(n[0], "n2").found;
}

static bool second_is_down(struct node **n)
{
	return seen_at(n[0], "n2").down;
}

static void waiting_ends_when_all_have_it_or_time_or_a_node_is_gone(void **state)
{
	struct node *n[2] = {node_make(1, 0, false), node_make(2, 0, false)};
	assert_true(asprintf(&n[0]->conf->run, "%s/run", dir) > 0);
	assert_true(asprintf(&n[0]->conf->control, "%s/run/control.sock", dir) > 0);
	assert_int_equal(opens_new(n[0]), 0);
	assert_int_equal(control_new(n[0], NULL), 0);
	give_route(n[0], n, 2, NULL, NULL, NULL);
	give_route(n[1], n, 2, "n1", NULL, NULL);
	cdm_vector_raise(&n[0]->sets[0]->vector, (struct cdm_dot){CDM_ORIGIN(1, 1), 7});
	assert_true(wait_for(second_is_known, n, 5000));

	json_t *j = ask(n, "{\"cmd\":\"wait\",\"set\":\"www\",\"timeout_s\":0.1}", NULL, NULL);
	expect(j, "result", "timeout");
	expect(j, "upto", "1.1:7");
	expect(json_array_get(json_object_get(j, "lack"), 0), "node", "n2");
	assert_int_equal(json_integer_value(json_object_get(j, "have")), 1);
	json_decref(j);
	j = ask(n, "{\"cmd\":\"wait\",\"set\":\"www\",\"min_percent\":50}", NULL, NULL);
	expect(j, "result", "ok");
	json_decref(j);
	j = ask(n, "{\"cmd\":\"status\",\"set\":\"www\"}", NULL, NULL);
	assert_true(json_is_false(json_object_get(j, "in_sync")));
	expect(json_array_get(json_object_get(j, "nodes"), 1), "state", "behind");
	json_decref(j);
	j = ask(n, "{\"cmd\":\"wait\",\"set\":\"www\"}", second_has_it_too, n[1]);
	expect(j, "result", "ok");
	assert_int_equal(json_integer_value(json_object_get(j, "of")), 2);
	json_decref(j);
	node_end(&n[1]);
	assert_true(wait_for(second_is_down, n, 5000));
	j = ask(n, "{\"cmd\":\"wait\",\"set\":\"www\",\"fail_fast\":true}", NULL, NULL);
	expect(j, "result", "down");
	json_decref(j);
	j = ask(n, "{\"cmd\":\"wait\",\"set\":\"other\"}", NULL, NULL);
	expect(j, "error", "unknown set other");
	json_decref(j);
	control_free(n[0]);
	opens_free(n[0]);
	free(n[0]->conf->run);
	free(n[0]->conf->control);
	node_end(&n[0]);
}

/* --- codec --- */

static void frames_read_back_and_every_cut_is_refused(void **state)
{
	uint8_t bytes[4096];
	struct wire_hello h = {.version = 1, .min_version = 1, .number = 7, .instance = 9, .clock = 11, .name = "web07"}, h2;
	size_t n = wire_hello_encode(&h, bytes);
	assert_true(n > 0);
	assert_int_equal(wire_hello_decode(bytes, n, &h2), 0);
	assert_string_equal(h2.name, "web07");
	for (size_t i = 0; i < n; i++)
		assert_int_equal(wire_hello_decode(bytes, i, &h2), -EBADMSG);
	struct wire_state s = {.number = 3, .start = 4, .sequence = 5, .clock = 6, .state = "ok", .reason_code = "c", .reason = "r"}, s2;
	cdm_vector_raise(&s.visible, (struct cdm_dot){CDM_ORIGIN(1, 1), 7});
	cdm_vector_raise(&s.durable, (struct cdm_dot){CDM_ORIGIN(2, 1), 8});
	n = wire_state_encode(&s, bytes);
	assert_int_equal(n, wire_state_size(&s));
	assert_int_equal(wire_state_decode(bytes, n, &s2), 0);
	assert_true(cdm_vector_equal(&s.visible, &s2.visible) && cdm_vector_equal(&s.durable, &s2.durable));
	wire_state_fini(&s2);
	for (size_t i = 0; i < n; i++)
		assert_int_equal(wire_state_decode(bytes, i, &s2), -EBADMSG);
	wire_state_fini(&s);
	struct wire_set_down d = {.name = "www", .why = {.number = 2, .text = "no"}}, d2;
	n = wire_set_down_encode(&d, bytes);
	assert_int_equal(wire_set_down_decode(bytes, n, &d2), 0);
	assert_string_equal(d2.why.text, "no");
	for (size_t i = 0; i < n; i++)
		assert_int_equal(wire_set_down_decode(bytes, i, &d2), -EBADMSG);
	struct wire_header wh = {.payload = FRAME_PAYLOAD_MAX, .type = FRAME_DATA, .set = 3}, wh2;
	wire_header_encode(&wh, bytes);
	assert_int_equal(wire_header_decode(bytes, &wh2, NULL), 0);
	wh.payload++;
	wire_header_encode(&wh, bytes);
	assert_int_equal(wire_header_decode(bytes, &wh2, NULL), -EPROTO);
	wh = (struct wire_header){.payload = 2000, .type = FRAME_HELLO};
	wire_header_encode(&wh, bytes);
	assert_int_equal(wire_header_decode(bytes, &wh2, NULL), -EPROTO);
	wh = (struct wire_header){.payload = 2, .type = FRAME_PLAIN};
	wire_header_encode(&wh, bytes);
	assert_int_equal(wire_header_decode(bytes, &wh2, NULL), -EPROTO);
	wh = (struct wire_header){.payload = 0, .type = 200};
	wire_header_encode(&wh, bytes);
	assert_int_equal(wire_header_decode(bytes, &wh2, NULL), -EPROTO);
}

static int remove_one(const char *path, const struct stat *st, int flag, struct FTW *ftw)
{
	return remove(path);
}

static int setup(void **state)
{
	if (!mkdtemp(dir) || cdm_loop_new(&loop, NULL) < 0)
		return -1;
	ca_key = cdm_tls_key_new(NULL);
	ca_cert = make_cert(ca_key, "test authority", 0, NULL, ca_key);
	return 0;
}

static int teardown(void **state)
{
	cdm_loop_free(&loop);
	X509_free(ca_cert);
	EVP_PKEY_free(ca_key);
	return nftw(dir, remove_one, 16, FTW_DEPTH | FTW_PHYS);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(frames_read_back_and_every_cut_is_refused),
		cmocka_unit_test(child_dials_parent_and_both_carry_the_set),
		cmocka_unit_test(a_paused_receiver_stops_the_sender_and_nothing_is_lost),
		cmocka_unit_test(states_flood_over_a_relay_and_a_lost_leaf_is_told),
		cmocka_unit_test(a_lost_parent_is_replaced_by_the_alternate_and_taken_back),
		cmocka_unit_test(parent_and_child_change_places),
		cmocka_unit_test(a_node_that_is_no_member_is_refused_with_a_reason),
		cmocka_unit_test(a_certificate_of_another_authority_is_refused),
		cmocka_unit_test(a_frame_that_cannot_be_used_ends_the_link_which_comes_back),
		cmocka_unit_test(when_both_dial_one_link_is_left),
		cmocka_unit_test(frames_arrive_equal_at_every_level_and_by_every_method),
		cmocka_unit_test(random_content_goes_as_it_is),
		cmocka_unit_test(a_compressed_frame_that_does_not_hold_ends_the_link),
		cmocka_unit_test(protection_changes_while_frames_flow),
		cmocka_unit_test(without_encryption_bytes_can_be_read_but_not_changed),
		cmocka_unit_test(an_older_peer_gets_plain_frames_in_tls),
		cmocka_unit_test(a_limited_link_sends_no_faster_and_a_new_limit_counts_at_once),
		cmocka_unit_test(a_table_with_bad_sections_changes_nothing),
		cmocka_unit_test(waiting_ends_when_all_have_it_or_time_or_a_node_is_gone),
	};
	return cmocka_run_group_tests(tests, setup, teardown);
}
