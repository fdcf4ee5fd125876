/* SPDX-License-Identifier: Apache-2.0 */
#include "common/error.h"

#include <errno.h>
#include <stdbool.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static int fail_va(struct cdm_error *err, int errnum, bool with_errno, const char *fmt, va_list ap)
{
	if (errnum <= 0)
		errnum = EIO;
	if (err) {
		err->number = errnum;
		err->hint[0] = 0;
		int n = vsnprintf(err->text, sizeof err->text, fmt, ap);
		if (with_errno && n >= 0 && (size_t)n < sizeof err->text)
			snprintf(err->text + n, sizeof err->text - n, ": %s", strerrordesc_np(errnum));
	}
	return -errnum;
}

int cdm_fail(struct cdm_error *err, int errnum, const char *fmt, ...)
{
	va_list ap;
	va_start(ap, fmt);
	int r = fail_va(err, errnum, true, fmt, ap);
	va_end(ap);
	return r;
}

int cdm_fail_plain(struct cdm_error *err, int errnum, const char *fmt, ...)
{
	va_list ap;
	va_start(ap, fmt);
	int r = fail_va(err, errnum, false, fmt, ap);
	va_end(ap);
	return r;
}

int cdm_wrap(struct cdm_error *err, int r, const char *fmt, ...)
{
	if (err) {
		char cause[sizeof err->text];
		memcpy(cause, err->text, sizeof cause);
		va_list ap;
		va_start(ap, fmt);
		int n = vsnprintf(err->text, sizeof err->text, fmt, ap);
		va_end(ap);
		if (n >= 0 && (size_t)n < sizeof err->text - 2) {
			err->text[n++] = ':';
			err->text[n++] = ' ';
			size_t room = sizeof err->text - (size_t)n - 1, len = strnlen(cause, sizeof cause - 1);
			memcpy(err->text + n, cause, len < room ? len : room);
			err->text[(size_t)n + (len < room ? len : room)] = 0;
		}
		if (!err->number)
			err->number = r < 0 ? -r : EIO;
	}
	return r;
}

void cdm_hint(struct cdm_error *err, const char *fmt, ...)
{
	if (!err)
		return;
	va_list ap;
	va_start(ap, fmt);
	vsnprintf(err->hint, sizeof err->hint, fmt, ap);
	va_end(ap);
}

void cdm_error_print(const char *program, const struct cdm_error *err)
{
	fprintf(stderr, "%s: %s\n", program, err->text);
	if (err->hint[0])
		fprintf(stderr, "%s: %s\n", program, err->hint);
}

void cdm_cleanup_close(int *fd)
{
	if (*fd >= 0) {
		int saved = errno;
		close(*fd);
		errno = saved;
	}
}

void cdm_cleanup_free(void *p)
{
	void *memory;
	memcpy(&memory, p, sizeof memory);
	free(memory);
}

int cdm_take_fd(int *fd)
{
	int taken = *fd;
	*fd = -1;
	return taken;
}
