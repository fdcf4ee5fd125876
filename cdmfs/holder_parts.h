/* SPDX-License-Identifier: Apache-2.0 */
/* holder_parts.h — the parts of the holder process, known only to holder*.c, supervise.c, helper.c, takeover.c.
 *
 * The holder is one thread around epoll. It never touches its own filesystem: a call that has to be answered by the server is
 * made by a helper, a short-lived child process, for when the server dies meanwhile the holder must be free to start the next. */
#ifndef CDMFS_HOLDER_PARTS_H
#define CDMFS_HOLDER_PARTS_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>
#include "cdmfs/mountinfo.h"
#include "cdmfs/options.h"
#include "common/conf.h"
#include "common/error.h"

struct holder;
struct source;
typedef void source_fn(struct holder *h, struct source *s);

struct source { /* something epoll waits for; fd -1 = not in use */
	int fd, epoll_fd;
	source_fn *ready;
	void *owner;
};

/* --- children (supervise.c) --- */
struct child {
	const char *name;        /* "server", "watcher" */
	pid_t pid;               /* 0 = none */
	bool ready;              /* has said so, since it was started */
	bool adopted;            /* started by an earlier holder: its exit status is not ours to see */
	bool wanted;             /* start it again when it ends */
	bool once_ready;         /* one of them has served: failures are tried again from now on */
	int signal_when_ready;   /* sent before it could handle it */
	unsigned quick_deaths;   /* ends in a row within a second of their start */
	int64_t started_ns;
	struct cdm_error reported; /* why it cannot start, number 0 = nothing */
	struct source exit, report, delay;
};

struct child_end {
	bool known;              /* status is known */
	int status;              /* as waitpid says */
	pid_t pid;
	struct cdm_error error;  /* what it reported, number 0 = nothing */
};

/* Start it: the first time, or after its end. 0 or -errno. */
int child_start(struct holder *h, struct child *c, struct cdm_error *err);
/* It ended and is wanted: start the next, at once or after a back-off. */
void child_start_again(struct holder *h, struct child *c);
/* Take over a running one of an earlier holder. */
int child_adopt(struct holder *h, struct child *c, pid_t pid, struct cdm_error *err);
/* A child that is just starting gets it when it is ready. */
void child_signal(struct child *c, int signo);
void child_init(struct child *c, const char *name);

/* --- helpers (helper.c) --- */
typedef int helper_fn(struct holder *h, struct cdm_error *err); /* runs in the helper's process */
typedef void helper_done_fn(struct holder *h, int result, const struct cdm_error *err);
/* Run fn in a process of its own, then done in the holder (fn's result; -EIO if the helper was killed). */
void helper_start(struct holder *h, const char *name, helper_fn *fn, helper_done_fn *done);

/* --- mounts (holder_mount.c): fresh mounts and their end; *_in_helper are helper_fn --- */
int mount_run_dir(struct holder *h, struct cdm_error *err);
void unmount_run_dir(struct holder *h);
int mount_full(struct holder *h, struct cdm_error *err);
int prime_in_helper(struct holder *h, struct cdm_error *err);
int bind_in_helper(struct holder *h, struct cdm_error *err);
int flags_in_helper(struct holder *h, struct cdm_error *err);
int unbind_in_helper(struct holder *h, struct cdm_error *err);
int unmount_full_in_helper(struct holder *h, struct cdm_error *err);
uint64_t visible_flags(const struct holder *h);
/* Detach what an earlier run left: the full mount and all binds of the same filesystem. */
void detach_leftovers(struct holder *h, const struct mount_table *t, dev_t dev);
/* -o remount: set the asked flags of the visible mount that is there. */
int remount_visible(struct holder *h, struct cdm_error *err);
/* Make the bare mountpoint immutable (true) or not. Returns whether it changed. Quietly nothing where it is not possible. */
bool set_immutable(const char *dir, bool on);

/* --- settings (holder_settings.c) --- */
/* Fills conf, set, identity, policy and all paths of h. */
int load_settings(struct holder *h, const char *argv0, struct cdm_error *err);
/* One holder per set: RUN/SET.lock, held until the process ends. -EBUSY: err says by which process. */
int lock_set(struct holder *h, struct cdm_error *err);

/* --- checks before anything is done (holder_check.c) --- */
int check_store(struct holder *h, struct cdm_error *err);
int check_mountpoint(struct holder *h, struct cdm_error *err);
void check_kernel(void);

/* --- taking over from a holder that died (takeover.c) ---
 * 1: the server or the watcher or both run on and are ours now, the missing one was started; 0: nothing to take over, leftovers are gone; -errno. */
int takeover(struct holder *h, struct cdm_error *err);

/* --- the person who started it (daemon.c) --- */
/* Become a daemon: returns 0 in the new process with *ret_report to report to; the old one waits for the report and exits. */
int daemon_start(int *ret_report, struct cdm_error *err);
/* After ready: let go of the terminal and of pipes. */
void daemon_detach_output(void);
/* Tell systemd ("READY=1\nSTATUS=…"). Nothing without $NOTIFY_SOCKET. One that does not listen is waited for a second, no more: the
 * mount needs the holder. */
void notify_systemd(const char *fmt, ...) __attribute__((format(printf, 1, 2)));
/* A sign of life; not waited for, the next one comes soon. */
void notify_alive(void);
/* --- a server or watcher that hangs (watchdog.c) --- */
struct suspicion { /* something waits; 0 = it does not */
	int64_t since_ns;
	int64_t quiet_ns;      /* and since then nobody computes */
};
struct watchdog {
	int64_t limit_ns;
	struct source manager; /* timer: signs of life to the service manager */
	struct source look;    /* timer: the next look, while something waits */
	struct source server_end, watcher_end; /* heard once; the descriptors are the holder's */
	int view_fd;           /* the kernel's view of the mount (fusectl), -1 = not open */
	uint64_t taken;        /* requests that the server had taken at the last look */
	bool moved;            /* those were more than at the look before */
	struct suspicion request, queue, told, asked, start;
};
void watchdog_init(struct watchdog *w);
/* After the mount is made or taken over. */
void watchdog_start(struct holder *h);
/* SIGIO: a request came while nobody was looking. */
void watchdog_heard(struct holder *h);
/* Who uses files below `dir`: "nginx (pid 12), vim (pid 13)", "" if nobody is found. */
void busy_describe(const char *dir, char *out, size_t room);

enum phase {
	PHASE_SERVER,         /* waiting for the server to serve */
	PHASE_PRIME,          /* helper: first calls, which teach the kernel "no open" */
	PHASE_WATCHER,        /* waiting for the watcher's mark */
	PHASE_BIND,           /* helper: make it visible */
	PHASE_RUN,
	PHASE_END_BIND,       /* helper: unmount the visible one */
	PHASE_END_WATCHER,    /* waiting for the watcher to pass on what it has */
	PHASE_END_FULL,       /* helper: unmount the full one; the server still writes what is dirty */
	PHASE_END_SERVER,     /* waiting for the server to close the journal */
	PHASE_OVER,
};

struct holder {
	struct holder_options options;
	struct cdm_conf *conf;
	const struct cdm_set_conf *set;
	struct cdm_identity *identity;
	struct cdm_policy policy;
	char *program;         /* absolute path the children are started by */
	char *config_path;     /* absolute, for the children */
	char *mountpoint;      /* canonical */
	char *run_dir, *full, *content;

	int lock_fd, fuse_fd;
	int watch_fds[2];      /* the server's end, the watcher's end */
	int report_fd;         /* --daemon: to the process the person started, -1 otherwise */
	struct child server, watcher;
	bool own_run_mount;    /* RUN/SET is a mount of ours */
	bool immutable;        /* we made the bare mountpoint immutable */
	int visible_id;        /* mount id of the visible bind, 0 = not bound */
	bool full_mounted;     /* RUN/SET/full is */

	int epoll_fd;
	struct source signals, mountinfo, routes, deadline;
	struct watchdog watchdog;
	enum phase phase;
	bool resumed;          /* INIT was answered before: servers start with --resume */
	bool policy_pending;   /* flags of the visible mount are to be set again */
	bool helper_busy;      /* a flags helper is under way */
	bool start_helper;     /* the helper of PHASE_PRIME or PHASE_BIND is under way */
	int end_signals;       /* SIGTERM/SIGINT received */
	bool server_clean;     /* the last server closed the journal */
	unsigned closers;      /* servers started after the unmount to close it */
	int exit_status;
	struct cdm_error failure; /* why the start failed */
};

/* holder.c */
int source_add(struct holder *h, struct source *s, int fd, uint32_t events, source_fn *ready, void *owner, struct cdm_error *err);
void source_drop(struct source *s); /* closes the descriptor */
int timer_start(struct holder *h, struct source *s, int64_t ms, source_fn *fired, void *owner);
void holder_child_ready(struct holder *h, struct child *c);
void holder_child_ended(struct holder *h, struct child *c, const struct child_end *end);
/* The mount is gone: start a server that does no more than close the journal. False if that is done, or was tried often enough. */
bool holder_start_closer(struct holder *h);
void holder_write_pids(struct holder *h);
int holder_make_watch(struct holder *h, struct cdm_error *err);

/* holder_end.c */
/* Begin the end, whatever the phase; again: nothing. */
void holder_begin_end(struct holder *h, const char *reason);
/* The second signal to end: somebody is tired of waiting. */
void holder_end_by_force(struct holder *h);
/* Do what the phase of the end asks; go on at once where there is nothing to wait for. enter: go to this phase first. */
void holder_end_step(struct holder *h);
void holder_enter_end(struct holder *h, enum phase phase);
/* Ask the server to end, with a time-out. */
void holder_end_server(struct holder *h);

#endif
