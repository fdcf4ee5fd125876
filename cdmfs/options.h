/* SPDX-License-Identifier: Apache-2.0 */
/* options.h — the command line of the holder: `cdmfs SET [MOUNTPOINT] [-o OPTS] [--config FILE] [--daemon]`. */
#ifndef CDMFS_OPTIONS_H
#define CDMFS_OPTIONS_H

#include <stdbool.h>
#include <stdint.h>
#include "common/error.h"

struct holder_options { /* strings point into argv, or are owned (context) */
	const char *set;
	const char *mountpoint; /* NULL: the set's own of node.conf */
	const char *config;     /* NULL: the default file */
	bool daemon;            /* go to the background when ready */
	bool nonempty;          /* -o nonempty: the mountpoint may hold files; they are hidden while it is mounted */
	bool remount;           /* -o remount: change the flags of a mount that is there */
	bool sloppy;            /* -o with an unknown word is not an error */
	uint64_t attr_set;      /* MOUNT_ATTR_* of the visible mount */
	uint64_t attr_clear;    /* those asked away explicitly ("rw", "dev"): of interest for remount */
	char *context;          /* SELinux options for the superblock, "context=…,fscontext=…", or NULL */
};

/* Parse. 0: go on; 1: --help or --version was answered, exit 0; -EINVAL: usage error, exit 2. */
int holder_options_parse(int argc, char **argv, struct holder_options *ret, struct cdm_error *err);
void holder_options_fini(struct holder_options *o);

/* One `-o` list ("ro,nosuid,x-systemd.automount"). Later words win. 0 or -EINVAL. */
int mount_options_parse(const char *list, struct holder_options *o, struct cdm_error *err);

#endif
