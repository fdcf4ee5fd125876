/* SPDX-License-Identifier: Apache-2.0 */
/* text.h — text for people: what may be shown of bytes that come from anywhere, figures with units, tables. The writers return `out`. */
#ifndef CDM_TEXT_H
#define CDM_TEXT_H

#include <stddef.h>
#include <stdint.h>

/* Bytes of the UTF-8 character at s that may be shown as it is; 0: a control character, a mark that turns the direction of
 * what follows, or no UTF-8. Reads no further than the terminating zero. */
size_t cdm_text_shown(const char *s);
/* All else as \xNN; never more than room - 1 bytes, no half character. */
char *cdm_text_escape(const char *s, char *out, size_t room);
void cdm_text_put(const char *s); /* the same, whole, to standard output */

char *cdm_text_count(uint64_t n, char *out, size_t room);         /* 8,120 */
char *cdm_text_bytes(uint64_t n, char *out, size_t room);         /* 3.1 MiB */
char *cdm_text_duration(double seconds, char *out, size_t room);  /* 0.04 s, 41 s, 2 h */
char *cdm_text_time(int64_t ns, char *out, size_t room);          /* 12:00:01.204Z, with the date when not today */
char *cdm_text_minute(int64_t seconds, char *out, size_t room);   /* 14:02Z, likewise */

/* "90", "90s", "15m", "1h", "7d" as people type them, in seconds; -1 when it is something else, or not 1 s to 100 years. */
int64_t cdm_text_to_seconds(const char *text);

/* A table on standard output: columns as wide as their widest cell, two blanks between, nothing behind the last text of a row. */
struct cdm_table;
/* titles: the first row. All texts are copied and escaped. */
struct cdm_table *cdm_table_new(size_t columns, const char *const titles[]);
/* paint: a terminal's escape sequence for the second cell (a state), or NULL. */
void cdm_table_add(struct cdm_table *t, const char *const cells[], const char *paint);
void cdm_table_print(struct cdm_table **t); /* and frees it */

#endif
