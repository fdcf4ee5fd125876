/* SPDX-License-Identifier: Apache-2.0 */
/* lab_private.h — between the files of the lab. */
#ifndef LAB_PRIVATE_H
#define LAB_PRIVATE_H

#define LAB_MARK "CDMFS_LAB_MARK" /* in the environment of everything a lab started: its directory; not CDMFS_LAB, which people set */

#include "lab.h"

/* A process the lab started. It is still that one only if the start time (clock ticks since boot) fits. */
struct lab_process {
	pid_t pid;
	uint64_t start;
};

struct lab_node {
	char *name, *group;
	char *dir, *mount, *store, *run_set; /* D/nI, D/nI/mnt, D/nI/store, D/nI/run/www */
	char *netns, *addr;                  /* netns NULL: without */
	char *rate;                          /* NULL: unlimited */
	unsigned index, port;
	struct lab_process holder, replicator, wire;
};

struct lab {
	char *dir;   /* canonical */
	char *tag;   /* "cdm-1a2b3c4d", from dir */
	char *build; /* where the programs were built; "" = on PATH */
	int dir_fd;  /* holds the lock */
	bool netns, installed; /* installed: it came up once, so it can be started again */
	char *rate, *journal, *certificate_life;
	int64_t delay_us;
	unsigned groups, regions;
	unsigned subnet; /* 10.(subnet >> 8).(subnet & 255).0/24 */
	unsigned api_port, agent_port;
	char *url, *agents;
	struct lab_process master;
	struct lab_node *nodes[LAB_NODES_MAX];
	unsigned node_count;
};

/* lab.c */
int lab_check_filesystem(const char *dir, struct cdm_error *err); /* can it hold stores? */
char *lab_format(const char *fmt, ...) __attribute__((format(printf, 1, 2))); /* never NULL */
struct lab_node *lab_node_find(struct lab *lab, const char *name, struct cdm_error *err);
struct lab_node *lab_node_new(struct lab *lab, unsigned index, const char *group);
char *lab_program_path(const struct lab *lab, const char *folder, const char *program);

/* lab_state.c */
int lab_state_save(const struct lab *lab, struct cdm_error *err);
int lab_state_load(struct lab *lab, struct cdm_error *err); /* -ENOENT: no lab.json */

/* lab_proc.c — processes */
bool lab_process_lives(const struct lab_process *p);
int lab_process_of(pid_t pid, struct lab_process *ret); /* -ESRCH */
/* Wait for the end (and reap it if it is ours). False: still there after timeout_ms. */
bool lab_process_wait(const struct lab_process *p, int timeout_ms);

struct lab_spawn {
	char name[32];           /* for messages and the log: D/logs/NAME.log */
	const char *const *argv;
	const char *netns;       /* NULL: ours */
	const struct lab_node *node; /* whose environment; NULL: the master's */
	bool wait_ready;         /* it speaks sd_notify */
	/* results */
	struct lab_process process;
	int notify_fd, pid_fd;
	off_t log_start;
};
int lab_spawn_start(struct lab *lab, struct lab_spawn *s, struct cdm_error *err);
/* Until it said READY=1, or (without wait_ready) ended with status 0. On failure says its last words and ends it. */
int lab_spawn_wait(struct lab *lab, struct lab_spawn *s, int timeout_ms, struct cdm_error *err);

/* Run a tool to its end; input may be NULL; *ret_output (may be NULL) is stdout and stderr. Returns the exit status, or a negative errno. */
int lab_tool(struct lab *lab, const struct lab_node *node, const char *netns, const char *const argv[], const char *input, char **ret_output,
	struct cdm_error *err);
/* The same where anything but 0 is a failure, said in its own words. */
int lab_tool_ok(struct lab *lab, const struct lab_node *node, const char *netns, const char *const argv[], const char *input,
	char **ret_output, struct cdm_error *err);
/* Environment of programs of a node (NULL: master), replacing this process's. */
void lab_environment(const struct lab *lab, const struct lab_node *node);

/* lab_net.c — namespaces and links */
int lab_net_check(struct cdm_error *err); /* ip and tc there? */
int lab_net_up(struct lab *lab, struct cdm_error *err);
int lab_net_add_nodes(struct lab *lab, unsigned from, struct cdm_error *err);
int lab_net_down(struct lab *lab, struct cdm_error *err);
int lab_net_enter(const char *netns, struct cdm_error *err); /* this process's network only */
int lab_rate_parse(const char *text, uint64_t *ret_bits, struct cdm_error *err);
char *lab_netns_name(const struct lab *lab, const char *who);
/* For each namespace of the lab that exists: its name and inode. */
void lab_net_each(const struct lab *lab, void (*fn)(void *arg, const char *name, ino_t ino), void *arg);

/* lab_nodes.c — the programs */
int lab_master_start(struct lab *lab, struct cdm_error *err);
int lab_install(struct lab *lab, struct cdm_error *err);     /* regions, groups */
int lab_install_set(struct lab *lab, const struct lab_options *o, struct cdm_error *err); /* after the nodes joined, for it may name them */
int lab_nodes_join(struct lab *lab, unsigned from, struct cdm_error *err);
int lab_nodes_start(struct lab *lab, unsigned from, struct cdm_error *err);


/* lab_down.c */
int lab_end_everything(struct lab *lab, struct cdm_error *err);
bool lab_something_runs(struct lab *lab);
/* Has it our mark in its environment (every program the lab started, and what those started)? */
bool lab_process_is_of_lab(const struct lab *lab, pid_t pid);

#endif
