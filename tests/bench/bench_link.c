/* SPDX-License-Identifier: Apache-2.0 */
/* What a link costs: content pieces over a connection between two ends of this process, over loopback, in each protection and with some
 * levels of compression. CPU seconds are those of both ends together, kernel included: what one hop takes without disks.
 * bench_link [MiB] */
#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>
#include <openssl/x509.h>
#include "replicator/link.h"
#include "replicator/link_pack.h"

#define PIECE (128u << 10)
#define CONTENT (8u << 20)

static struct cdm_loop *loop;
static uint8_t content[CONTENT];

struct end {
	struct conn *conn;
	struct link_pack pack;
	uint64_t left, sent, got; /* plain bytes to send, payload as sent, plain bytes received */
	unsigned level;
	bool plain, ready;
};

static void die(const char *what)
{
	fprintf(stderr, "bench_link: %s\n", what);
	exit(1);
}

static void on_ready(void *arg)
{
	struct end *e = arg;
	e->ready = true;
	cdm_loop_stop(loop);
}

static void send_more(struct end *e)
{
	while (e->left > 0 && conn_queued(e->conn) < LINK_QUEUE_HIGH) {
		const struct wire_header h = {.payload = PIECE, .type = FRAME_DATA};
		e->sent += link_pack_send(&e->pack, e->level, WIRE_FEATURES, e->conn, &h, NULL, 0, content + e->left % CONTENT, PIECE, NULL);
		e->left -= PIECE;
	}
}

static void on_drained(void *arg, size_t queued)
{
	struct end *e = arg;
	if (queued < LINK_QUEUE_LOW)
		send_more(e);
}

static size_t on_bytes(void *arg, const uint8_t *bytes, size_t len)
{
	struct end *e = arg;
	size_t at = 0;
	while (len - at >= WIRE_HEADER) {
		struct wire_header h;
		const uint8_t *payload = bytes + at + WIRE_HEADER;
		if (wire_header_decode(bytes + at, &h, NULL) < 0)
			die("a bad frame");
		if (len - at < WIRE_HEADER + h.payload) {
			conn_need(e->conn, WIRE_HEADER + h.payload);
			break;
		}
		at += WIRE_HEADER + h.payload;
		if (link_pack_take(&e->pack, WIRE_FEATURES, &h, &payload, NULL) < 0)
			die("a bad compressed frame");
		if (h.type == FRAME_PLAIN)
			conn_receive_plain(e->conn, true);
		else
			e->got += h.payload;
	}
	return at;
}

static void on_closed(void *arg, const struct cdm_error *why)
{
	struct end *e = arg;
	e->conn = NULL;
	cdm_loop_stop(loop);
}

static const struct conn_ops ops = {.ready = on_ready, .bytes = on_bytes, .drained = on_drained, .closed = on_closed};

static SSL_CTX *context(bool server)
{
	SSL_CTX *ctx = SSL_CTX_new(server ? TLS_server_method() : TLS_client_method());
	EVP_PKEY *key = EVP_EC_gen("P-256");
	X509 *x = X509_new();
	X509_gmtime_adj(X509_getm_notBefore(x), -60);
	X509_gmtime_adj(X509_getm_notAfter(x), 3600);
	X509_set_pubkey(x, key);
	if (X509_sign(x, key, EVP_sha256()) <= 0 || SSL_CTX_use_certificate(ctx, x) != 1 || SSL_CTX_use_PrivateKey(ctx, key) != 1)
		die("no certificate");
	SSL_CTX_set_mode(ctx, SSL_MODE_AUTO_RETRY | SSL_MODE_RELEASE_BUFFERS);
	SSL_CTX_set_num_tickets(ctx, 0);
	X509_free(x);
	EVP_PKEY_free(key);
	return ctx;
}

static double cpu_now(void)
{
	struct rusage u;
	getrusage(RUSAGE_SELF, &u);
	return (double)(u.ru_utime.tv_sec + u.ru_stime.tv_sec) + (double)(u.ru_utime.tv_usec + u.ru_stime.tv_usec) / 1e6;
}

static void measure(struct end *from, struct end *to, const char *what, uint64_t bytes, unsigned level)
{
	double cpu = cpu_now();
	int64_t start = cdm_now_ns();
	from->left = bytes;
	from->level = level;
	from->sent = to->got = 0;
	send_more(from);
	while (to->got < bytes) {
		if (!from->conn || !to->conn)
			die("the connection ended");
		cdm_loop_after(loop, 1, (cdm_loop_fn *)cdm_loop_stop, loop);
		cdm_loop_run(loop);
	}
	double gib = (double)bytes / (1 << 30), wall = (double)(cdm_now_ns() - start) / 1e9;
	printf("%-7s encryption %-3s compression %u: %5.2f CPU s/GiB, %5.0f MiB/s, %3.0f %% on the wire\n", what, from->plain ? "off" : "on", level,
		(cpu_now() - cpu) / gib, gib * 1024 / wall, 100 * (double)from->sent / (double)bytes);
}

static void fill_random(void)
{
	uint64_t x = 88172645463325252ull;
	for (size_t i = 0; i < CONTENT; i += 8) {
		x ^= x << 13, x ^= x >> 7, x ^= x << 17;
		memcpy(content + i, &x, 8);
	}
}

/* Made-up words, a few of them often. */
static void fill_text(void)
{
	uint32_t x = 1;
	for (size_t at = 0; at < CONTENT;) {
		x = x * 1103515245 + 12345;
		uint32_t word = (x >> 16 & 4095) * (x >> 8 & 4095) >> 12;
		word *= 2654435761u;
		for (unsigned i = 0, n = 2 + word % 9; i < n && at < CONTENT; i++, word = word * 69069 + 1)
			content[at++] = (uint8_t)"etaoinshrdlucmfw"[word >> 28];
		if (at < CONTENT)
			content[at++] = x >> 24 ? ' ' : '\n';
	}
}

static void connect_ends(struct end *client, struct end *server, SSL_CTX *client_ctx, SSL_CTX *server_ctx)
{
	struct sockaddr_in addr = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
	socklen_t len = sizeof addr;
	int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
	if (bind(fd, (struct sockaddr *)&addr, len) < 0 || listen(fd, 1) < 0 || getsockname(fd, (struct sockaddr *)&addr, &len) < 0)
		die("no socket");
	client->conn = conn_connect(loop, client_ctx, (struct sockaddr *)&addr, len, NULL, &ops, client, NULL);
	cdm_loop_after(loop, 10, (cdm_loop_fn *)cdm_loop_stop, loop);
	cdm_loop_run(loop);
	server->conn = conn_accept(loop, server_ctx, accept(fd, NULL, NULL), &ops, server);
	while (!client->ready || !server->ready)
		cdm_loop_run(loop);
	close(fd);
}

int main(int argc, char **argv)
{
	static const unsigned levels[] = {0, 1, 3, 6};
	uint64_t bytes = (uint64_t)(argc > 1 ? atoi(argv[1]) : 1024) << 20;
	struct end client = {0}, server = {0};
	if (cdm_loop_new(&loop, NULL) < 0)
		die("no loop");
	SSL_CTX *client_ctx = context(false), *server_ctx = context(true);
	connect_ends(&client, &server, client_ctx, server_ctx);
	for (unsigned plain = 0; plain < 2; plain++) {
		if (plain) {
			const uint8_t on = 1;
			const struct wire_header h = {.payload = 1, .type = FRAME_PLAIN};
			link_pack_send(&server.pack, 0, WIRE_FEATURES, server.conn, &h, &on, 1, NULL, 0, NULL);
			conn_send_plain(server.conn, true);
			server.plain = true;
		}
		fill_random();
		measure(&server, &client, "random", bytes, 0);
		measure(&server, &client, "random", bytes, 1);
		fill_text();
		for (unsigned i = 1; i < sizeof levels / sizeof *levels; i++)
			measure(&server, &client, "text", levels[i] <= 1 ? bytes : bytes / 4, levels[i]);
	}
	conn_abort(client.conn, NULL);
	conn_abort(server.conn, NULL);
	while (client.conn || server.conn)
		cdm_loop_run(loop);
	link_pack_fini(&client.pack);
	link_pack_fini(&server.pack);
	SSL_CTX_free(client_ctx);
	SSL_CTX_free(server_ctx);
	cdm_loop_free(&loop);
	return 0;
}
