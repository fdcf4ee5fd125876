/* SPDX-License-Identifier: Apache-2.0 */
#include <errno.h>
#include <string.h>
#include <unistd.h>
#include "cdmfs/holder.h"
#include "cdmfs/report.h"
#include "common/log.h"

#define REPORT_FAILED 'E'

struct failure { /* between processes of one program */
	char kind;
	struct cdm_error error;
};

static void send_report(int *fd, const void *bytes, size_t len)
{
	if (*fd < 0)
		return;
	while (write(*fd, bytes, len) < 0 && errno == EINTR)
		;
	close(*fd);
	*fd = -1;
}

void report_ready(int *fd)
{
	send_report(fd, &(char){CDM_CHILD_READY}, 1);
}

void report_failed(int *fd, const struct cdm_error *err)
{
	struct failure f;

	memset(&f, 0, sizeof(f));
	f.kind = REPORT_FAILED;
	f.error = *err;
	send_report(fd, &f, sizeof(f));
}

int report_read(int fd, struct cdm_error *err)
{
	struct failure f;
	ssize_t n;

	do
		n = read(fd, &f, sizeof(f));
	while (n < 0 && errno == EINTR);
	if (n < 0)
		return errno == EAGAIN ? -EAGAIN : cdm_fail(err, errno, "read the report of a child");
	if (n == 0)
		return 0;
	if (f.kind == CDM_CHILD_READY)
		return 1;
	if (f.kind != REPORT_FAILED || n != sizeof(f) || f.error.number <= 0)
		return cdm_fail_plain(err, EIO, "a child failed to start");
	f.error.text[sizeof(f.error.text) - 1] = 0;
	f.error.hint[sizeof(f.error.hint) - 1] = 0;
	if (err)
		*err = f.error;
	return f.error.number == EAGAIN ? -EIO : -f.error.number;
}

void child_ready(struct child_options *options)
{
	report_ready(&options->ready_fd);
}

int child_failed(struct child_options *options, const struct cdm_error *err)
{
	if (options->ready_fd >= 0)
		report_failed(&options->ready_fd, err);
	else
		cdm_log_err(failed, err);
	return CDM_EXIT_REFUSED;
}
