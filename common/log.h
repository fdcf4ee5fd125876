/* SPDX-License-Identifier: Apache-2.0 */
/* log.h — one event, one line of key=value on stderr with a <n> priority, which journald reads and a terminal bears.
 * Events are the rows of events.def. Strings are quoted and escaped. Thread-safe; keeps errno. */
#ifndef CDM_LOG_H
#define CDM_LOG_H

#include <stdint.h>
#include "common/error.h"

enum cdm_event {
#define EVENT(name, level, keys, when) CDM_EV_##name,
#include "common/events.def"
#undef EVENT
	CDM_EV_MAX
};

struct cdm_kv {
	const char *key;
	enum { CDM_KV_STR, CDM_KV_INT, CDM_KV_UINT } type;
	union {
		const char *s;
		int64_t i;
		uint64_t u;
	};
};

#define cdm_str(k, v) ((struct cdm_kv){.key = (k), .type = CDM_KV_STR, .s = (v)})
#define cdm_int(k, v) ((struct cdm_kv){.key = (k), .type = CDM_KV_INT, .i = (v)})
#define cdm_uint(k, v) ((struct cdm_kv){.key = (k), .type = CDM_KV_UINT, .u = (v)})

/* cdm_log(link_up, cdm_str("peer", name), cdm_uint("resume", n)); the event name comes without its prefix.
 * Repeats of one event with equal text within a second are counted and reported once. */
#define cdm_log(ev, ...) cdm_log_event(CDM_EV_##ev, NULL, (const struct cdm_kv[]){__VA_ARGS__ __VA_OPT__(, ) {0}})
/* The same with what failed: adds errno=, msg= and hint=. */
#define cdm_log_err(ev, err, ...) cdm_log_event(CDM_EV_##ev, (err), (const struct cdm_kv[]){__VA_ARGS__ __VA_OPT__(, ) {0}})

void cdm_log_event(enum cdm_event ev, const struct cdm_error *err, const struct cdm_kv *kv);

/* Identity keys put into every line of this process: node and set may be NULL. Strings are copied. */
void cdm_log_identity(const char *node, const char *set);

/* cdm_debug("fmt", …): only when CDMFS_DEBUG is set in the environment. */
void cdm_debug(const char *fmt, ...) __attribute__((format(printf, 1, 2)));

#endif
