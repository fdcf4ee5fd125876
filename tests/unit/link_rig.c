/* SPDX-License-Identifier: Apache-2.0 */
#include "tests/unit/link_rig.h"

#include <errno.h>
#include <ftw.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <openssl/pem.h>
#include <openssl/x509v3.h>
#include "common/tls.h"
#include "replicator/chunk.h"
#include "replicator/fetch.h"

const char *rig_sections;
unsigned rig_detour;
bool rig_mixed;

static const uint8_t *piece_of(uint32_t number)
{
	static uint8_t piece[PIECE];
	uint64_t x = number + 1;
	for (size_t i = 0; i + 8 <= PIECE; i += 8) {
		x ^= x << 13, x ^= x >> 7, x ^= x << 17;
		if (rig_mixed && number % 3 == 0)
			memcpy(piece + i, i % 24 ? "harmless" : "<li>text", 8), piece[i] = (uint8_t)('a' + x % 16);
		else if (rig_mixed && number % 3 == 1)
			memset(piece + i, 0, 8);
		else
			memcpy(piece + i, &x, 8);
	}
	return piece;
}

struct cdm_loop *rig_loop;
char rig_dir[] = "/tmp/cdm-test-link-XXXXXX";

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
	cdm_loop_post(rig_loop, begin, s);
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
void send_pieces(struct set *s, struct link *l)
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
unsigned rig_fed, rig_fed_in_chunks;

uint8_t rig_fed_byte(unsigned number, size_t at)
{
	return (uint8_t)(number * 31 + at * 7 + at / 4096);
}
/* Pieces that are fed are numbered, too. */
static int take_fed(const uint8_t *head, const uint8_t *bytes, size_t len, struct cdm_error *err)
{
	uint32_t number;
	memcpy(&number, head, sizeof number);
	if (number != rig_fed)
		return cdm_fail_plain(err, EPROTO, "fed piece %u instead of %u", number, rig_fed);
	for (size_t i = 0; i < len; i++)
		if (bytes[i] != rig_fed_byte(number, i))
			return cdm_fail_plain(err, EPROTO, "fed piece %u came as another", number);
	rig_fed++;
	return 0;
}
int fetch_frame(struct node *node, struct link *l, enum frame_type type, const uint8_t *payload, size_t len, struct cdm_error *err)
{
	return type == FRAME_FED ? take_fed(payload, payload + FED_HEAD, len - FED_HEAD, err) : 0;
}
int fetch_fed(struct node *node, struct link *l, const uint8_t head[FED_HEAD], struct chunk *chunk, size_t len, struct cdm_error *err)
{
	rig_fed_in_chunks++;
	return take_fed(head, chunk->data, len, err);
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
void set_conflicts(struct set *s, const char *action, const char *id, bool dry, set_adopt_fn *done, void *arg)
{
	done(arg, json_object());
}
void set_quarantine(struct set *s, const char *action, const char *id, bool dry, set_adopt_fn *done, void *arg)
{
	done(arg, json_object());
}
json_t *set_scrub(struct set *s)
{
	return json_pack("{s:{}}", "result");
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

struct node *node_make(unsigned number, unsigned port, bool foreign)
{
	struct node *n = calloc(1, sizeof *n);
	char *text;
	n->loop = rig_loop;
	n->instance = (uint64_t)cdm_wall_ns();
	n->features = WIRE_FEATURES;
	n->conf = calloc(1, sizeof *n->conf);
	n->id = calloc(1, sizeof *n->id);
	n->id->number = number;
	assert_true(asprintf(&n->id->node, "n%u", number) > 0);
	assert_true(asprintf(&n->conf->state, "%s/n%u", rig_dir, number) > 0);
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

static condition_fn *condition;
static struct node **condition_nodes;
static bool condition_met, condition_over;
static int64_t condition_end;

static void look(void *arg)
{
	condition_met = condition(condition_nodes);
	condition_over = condition_met || cdm_now_ms() > condition_end;
	if (condition_over)
		cdm_loop_stop(rig_loop);
	else
		cdm_loop_after(rig_loop, 2, look, NULL);
}

bool wait_for(condition_fn *fn, struct node **nodes, int64_t ms)
{
	condition = fn;
	condition_nodes = nodes;
	condition_end = cdm_now_ms() + ms;
	cdm_loop_after(rig_loop, 0, look, NULL);
	condition_over = false;
	while (!condition_over) /* a node whose last link is gone stops the rig_loop, too */
		cdm_loop_run(rig_loop);
	return condition_met;
}

static bool no_links(struct node **n)
{
	return n[0]->link_count == 0;
}

void node_end(struct node **pn)
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

void give_route(struct node *n, struct node **nodes, size_t count, const char *parent, const char *alternate, struct node *leave_out)
{
	static json_int_t epoch;
	json_t *members = json_array(), *set, *table;
	for (size_t i = 0; i < count; i++) {
		char addr[64];
		if (nodes[i] == leave_out)
			continue;
		snprintf(addr, sizeof addr, "127.0.0.1:%u", i == 0 && rig_detour ? rig_detour : listener_port(nodes[i]));
		json_array_append_new(members, json_pack("{s:s, s:i, s:s, s:s, s:s, s:s, s:s}", "name", nodes[i]->id->node, "number",
			(int)nodes[i]->id->number, "addr", addr, "role", "both", "group", "g", "region", "r", "state", "active"));
	}
	set = json_pack("{s:s, s:i, s:o, s:s, s:s?}", "name", "www", "id", 1, "members", members, "role", "both", "parent", parent);
	json_object_set_new(set, "neighbours_only", json_true()); /* no ring: links are those between parent and child */
	json_object_set_new(set, "alternates", alternate ? json_pack("[s]", alternate) : json_array());
	table = json_pack("{s:I, s:s, s:[o]}", "epoch", ++epoch, "node", n->id->node, "sets", set);
	if (rig_sections)
		json_object_set_new(table, "sections", json_loads(rig_sections, 0, NULL));
	struct cdm_error err = CDM_ERROR_INIT;
	int r = route_take(n, table, &err);
	if (r < 0)
		fail_msg("%s", err.text);
	json_decref(table);
}

bool first_two_carry(struct node **n)
{
	return n[1]->sets[0]->parent && n[0]->sets[0]->child;
}

static void see(void *arg, const struct peer_state *p)
{
	struct seen *s = arg;
	if (strcmp(p->member->name, s->name) != 0)
		return;
	s->found = p->known;
	s->down = p->down;
	s->number = cdm_vector_get(p->durable, CDM_ORIGIN(1, 1));
}

struct seen seen_at(struct node *n, const char *name)
{
	struct seen s = {.name = name};
	state_each(n, n->sets[0], see, &s);
	return s;
}

bool second_was_down_and_up(struct node **n)
{
	return n[0]->sets[0]->downs > 0 && n[0]->sets[0]->child && n[1]->sets[0]->parent;
}

bool all_arrived(struct node **n)
{
	return n[1]->sets[0]->frames == PIECES;
}

void pair_make(struct node *n[2], const char *use, uint32_t features)
{
	rig_sections = use;
	n[0] = node_make(1, 0, false);
	n[1] = node_make(2, 0, false);
	n[1]->features = features;
	give_route(n[0], n, 2, NULL, NULL, NULL);
	give_route(n[1], n, 2, "n1", NULL, NULL);
	assert_true(wait_for(first_two_carry, n, 5000));
}

void pair_use(struct node *n[2], const char *use)
{
	rig_sections = use;
	give_route(n[0], n, 2, NULL, NULL, NULL);
	give_route(n[1], n, 2, "n1", NULL, NULL);
}

void pair_end(struct node *n[2])
{
	rig_sections = NULL;
	rig_mixed = false;
	node_end(&n[1]);
	node_end(&n[0]);
}

void send_all(struct node *n[2])
{
	struct set *a = n[0]->sets[0];
	a->to_send = PIECES;
	n[1]->sets[0]->frames = n[1]->sets[0]->next = 0;
	send_pieces(a, a->child);
}

void expect_all(struct node *n[2])
{
	assert_true(wait_for(all_arrived, n, 20000));
	assert_int_equal(n[0]->sets[0]->downs + n[1]->sets[0]->downs, 0);
}

/* --- all of it --- */

static int remove_one(const char *path, const struct stat *st, int flag, struct FTW *ftw)
{
	return remove(path);
}

int rig_setup(void **state)
{
	if (!mkdtemp(rig_dir) || cdm_loop_new(&rig_loop, NULL) < 0)
		return -1;
	ca_key = cdm_tls_key_new(NULL);
	ca_cert = make_cert(ca_key, "test authority", 0, NULL, ca_key);
	return 0;
}

int rig_teardown(void **state)
{
	cdm_loop_free(&rig_loop);
	X509_free(ca_cert);
	EVP_PKEY_free(ca_key);
	return nftw(rig_dir, remove_one, 16, FTW_DEPTH | FTW_PHYS);
}
