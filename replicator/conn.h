/* SPDX-License-Identifier: Apache-2.0 */
/* conn.h — a TLS connection on the loop: a socket, an engine of common/tls.h, a queue of plain bytes to send and a buffer of plain
 * bytes received. Each direction may go over from TLS to readable, authenticated records (plain.h) and back; how fast it sends may be
 * limited. Carries links (link.c) and the agent's connection (master_link.c). Loop thread only.
 * Life: conn_connect or conn_accept → ready → bytes* → closed. `closed` comes exactly once, from the loop, never from within a
 * call; the owner forgets the conn there. */
#ifndef REPLICATOR_CONN_H
#define REPLICATOR_CONN_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/socket.h>
#include "common/error.h"
#include "common/loop.h"
#include "common/tls.h"

struct chunk;
struct conn;
struct conn_ops {
	void (*ready)(void *arg); /* handshake done: conn_peer tells who it is */
	/* Plain bytes from the last consumed one on. Returns how many were consumed; the rest comes again with more behind it. When a
	 * frame needs `n` bytes in all, say conn_need(n) before returning. */
	size_t (*bytes)(void *arg, const uint8_t *bytes, size_t len);
	void (*filled)(void *arg); /* what conn_fill asked for is there; may be NULL where that is not called */
	void (*drained)(void *arg, size_t queued); /* after each step of sending; what is still queued */
	void (*closed)(void *arg, const struct cdm_error *why);
	uint64_t (*rate)(void *arg); /* may be NULL: bytes a second that may be sent now (0 = no limit); asked again at each step */
};

struct conn *conn_connect(struct cdm_loop *loop, SSL_CTX *ctx, const struct sockaddr *addr, socklen_t addr_len, const char *host,
	const struct conn_ops *ops, void *arg, struct cdm_error *err); /* NULL: no socket to be had */
struct conn *conn_accept(struct cdm_loop *loop, SSL_CTX *ctx, int fd /* taken */, const struct conn_ops *ops, void *arg);

void conn_send(struct conn *c, const void *bytes, size_t len); /* copied; goes out in this turn of the loop */
/* The same without a copy: room for `len` bytes at the end of the queue, of which conn_added says how many were put there before anything
 * else is done with the conn. NULL: it takes nothing any more. */
uint8_t *conn_room(struct conn *c, size_t len);
void conn_added(struct conn *c, size_t len);
/* The same with bytes that stay where they are, in a chunk: it is kept until they are protected. Nobody may change them before. */
void conn_send_chunk(struct conn *c, struct chunk *chunk, const uint8_t *bytes, size_t len);
size_t conn_queued(const struct conn *c);
/* Everything sent from now on goes out as plain records, or as TLS again. What was queued last must tell the peer; until that went out
 * (conn_switching) there may be no second change. */
void conn_send_plain(struct conn *c, bool on);
bool conn_sends_plain(const struct conn *c); /* or will, behind what is queued */
bool conn_switching(const struct conn *c);
/* The peer said so, from within `bytes`: nothing may follow in what was received under the protection before. */
void conn_receive_plain(struct conn *c, bool on);
/* The rate has changed: look again. */
void conn_rate_changed(struct conn *c);
void conn_need(struct conn *c, size_t len);
/* From within `bytes`: what comes behind the consumed bytes goes to `to`, `len` bytes of it, which must stay until `filled` or `closed`. No
 * `bytes` before that. */
void conn_fill(struct conn *c, uint8_t *to, size_t len);
void conn_pause(struct conn *c); /* counted: no more `bytes` until as many conn_resume */
void conn_resume(struct conn *c);
bool conn_paused(const struct conn *c);
/* Send what is queued (for at most a second), then close. No more `bytes`. why: given to `closed`. */
void conn_finish(struct conn *c, const struct cdm_error *why);
void conn_abort(struct conn *c, const struct cdm_error *why); /* at once */
int conn_peer(const struct conn *c, struct cdm_tls_name *ret, struct cdm_error *err);
int64_t conn_last_in_ms(const struct conn *c);
int64_t conn_last_out_ms(const struct conn *c);
void conn_counters(const struct conn *c, uint64_t *ret_sent, uint64_t *ret_received); /* bytes on the wire */

/* "host:port", "[v6]:port": split in place into caller's buffers. 0 or -EINVAL with err. */
int conn_split_address(const char *text, char host[256], char port[16], struct cdm_error *err);

#endif
