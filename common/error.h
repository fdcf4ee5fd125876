/* SPDX-License-Identifier: Apache-2.0 */
/* error.h — what went wrong, for people. Expected failures return 0/positive or a negative errno and fill a
 * struct cdm_error that the caller passed (NULL is allowed). The cause writes the sentence, callers may put context
 * before it, the edge (FUSE reply, loop callback, main) logs it once. Our own bugs are asserts, never errors.
 * Threads: a struct cdm_error belongs to one thread at a time. */
#ifndef CDM_ERROR_H
#define CDM_ERROR_H

#include <stddef.h>

struct cdm_error {
	int number;      /* positive errno of the cause, 0 = none */
	char text[600];  /* "open store /srv/www: No such file or directory" */
	char hint[256];  /* what to do next, or "" */
};

#define CDM_ERROR_INIT ((struct cdm_error){0})

/* Set number and sentence ("<fmt>: <strerror>"); returns -errnum, so that `return cdm_fail(err, errno, …)` reports
 * and returns at once. errnum 0 or negative is taken as EIO. */
int cdm_fail(struct cdm_error *err, int errnum, const char *fmt, ...) __attribute__((format(printf, 3, 4)));

/* As cdm_fail without the errno text: the sentence says it all ("unknown set wwww"). */
int cdm_fail_plain(struct cdm_error *err, int errnum, const char *fmt, ...) __attribute__((format(printf, 3, 4)));

/* Put "<fmt>: " before the sentence; returns r unchanged. */
int cdm_wrap(struct cdm_error *err, int r, const char *fmt, ...) __attribute__((format(printf, 3, 4)));

/* Say what to do next. */
void cdm_hint(struct cdm_error *err, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

/* Print "program: text" and, if there is one, the hint on a second line to stderr. For main() of commands. */
void cdm_error_print(const char *program, const struct cdm_error *err);

/* Cleanup attribute for scope-owned things: _cleanup_close_ int fd = open(…); take with cdm_take_fd(&fd). */
void cdm_cleanup_close(int *fd);
void cdm_cleanup_free(void *p);
int cdm_take_fd(int *fd);
#define _cleanup_close_ __attribute__((cleanup(cdm_cleanup_close)))
#define _cleanup_free_ __attribute__((cleanup(cdm_cleanup_free)))

#endif
