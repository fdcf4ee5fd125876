/* SPDX-License-Identifier: Apache-2.0 */
/* lab.h — a whole installation on one machine, with the real programs: a master and N nodes, each with its mount; with `netns`
 * each in a network namespace of its own. The verbs serve the `lab` command, the cluster tests and the benchmarks.
 *
 * Everything is below the lab's directory and in namespaces named after it (cdm-<hash>-n1, …), nothing else is touched:
 *   D/lab.json           what was started: pids with start times, ports, namespaces      D/logs/NAME.log
 *   D/master/            the master's own directory                                      D/admin.token
 *   D/nI/                node.conf  state/  run/  store/  mnt/
 * Programs crash into D/logs/core*. Whatever was killed, `lab_down` finds what is left by lab.json, by the environment of the processes, by the namespaces, and by the
 * mounts below D.
 *
 * Root only. One thread. Functions return 0 or a negative errno with `err` filled, and wait for conditions, never for a time. */
#ifndef LAB_H
#define LAB_H

#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <sys/types.h>
#include <jansson.h>
#include "common/error.h"

#define LAB_SET "www"           /* the one content set of a lab */
#define LAB_NODES_MAX 200
#define LAB_READY_MS 60000      /* until when a started program must be ready */

struct lab;

struct lab_options {
	const char *dir;       /* new, empty, or a lab that is down: that one is started again */
	unsigned nodes;        /* 1 … LAB_NODES_MAX */
	unsigned groups;       /* 0 = 1; node i sits in group gK in turn … */
	unsigned regions;      /* 0 = 1; … and group i in region rK */
	bool netns;
	const char *rate;      /* "100mbit", per direction of each node's link; NULL = unlimited. Needs netns */
	int64_t delay_us;      /* one way, node to node; needs netns */
	const char *sources;   /* "n1,n2": only these save, all others are pure targets; NULL = all are both */
	const char *exclude, *local; /* patterns of the set, separated by commas; NULL = none */
	const char *journal;   /* size of each node's journal, "16M"; NULL = the default */
	const char *certificate_life; /* of the nodes' certificates, "5m"; NULL = the default */
};

/* Programs of a node, and the master. */
enum lab_program { LAB_HOLDER, LAB_SERVER, LAB_WATCHER, LAB_REPLICATOR, LAB_MASTER, LAB_PROGRAMS };
extern const char *const lab_program_names[LAB_PROGRAMS]; /* cdmfs-holder cdmfs cdmfs-watcher replicator master */
/* LAB_PROGRAMS: no such program. */
enum lab_program lab_program_find(const char *name);

/* Bring a lab up; it is usable on all nodes when this returns. On failure nothing is left running; D/logs stays. */
int lab_up(const struct lab_options *options, struct lab **ret, struct cdm_error *err);
/* The lab in this directory, running or not. -ENOENT: there is none. `change`: locked until lab_close (as after lab_up); else
 * only for looking and running commands. */
int lab_open(const char *dir, bool change, struct lab **ret, struct cdm_error *err);
void lab_close(struct lab **lab);
/* End everything; what could not be ended is an error that names it. The files stay: lab_up starts the same lab again. */
int lab_down(struct lab *lab, struct cdm_error *err);
/* Remove the directory of a lab that is down, as far as a lab made it. */
int lab_remove(struct lab *lab, struct cdm_error *err);
/* Join and start one more node; group NULL: the next in turn. *ret_name is the lab's. */
int lab_add_node(struct lab *lab, const char *group, const char **ret_name, struct cdm_error *err);

/* Send a signal; after one that kills, wait for the end of the process. node NULL: the master. *ret_pid may be NULL. */
int lab_kill(struct lab *lab, const char *node, enum lab_program program, int signal, pid_t *ret_pid, struct cdm_error *err);
int lab_kill9(struct lab *lab, const char *node, enum lab_program program, struct cdm_error *err);
/* All programs of a node that run, the holder first, for it would start others again: as a power cut. */
int lab_kill9_node(struct lab *lab, const char *node, struct cdm_error *err);
int lab_start_node(struct lab *lab, const char *node, struct cdm_error *err);
/* Start what does not run and wait until it is ready; server and watcher are the holder's business, which this starts if need be. */
int lab_start(struct lab *lab, const char *node, enum lab_program program, struct cdm_error *err);
/* The process, 0 = does not run. */
pid_t lab_pid(struct lab *lab, const char *node, enum lab_program program);

/* The node's network: link down, link up, another rate ("2mbit", "off"). Need netns. */
int lab_cut(struct lab *lab, const char *node, struct cdm_error *err);
int lab_heal(struct lab *lab, const char *node, struct cdm_error *err);
int lab_slow(struct lab *lab, const char *node, const char *rate, struct cdm_error *err);

/* Names and places; the strings are the lab's. Index from 0. */
unsigned lab_node_count(const struct lab *lab);
const char *lab_node_name(const struct lab *lab, unsigned index);
const char *lab_mount(const struct lab *lab, const char *node);
const char *lab_store(const struct lab *lab, const char *node);
const char *lab_run_dir(const struct lab *lab, const char *node); /* RUN/SET */
const char *lab_dir(const struct lab *lab);
/* MOUNT/rel and STORE/rel; the caller frees. */
char *lab_path(const struct lab *lab, const char *node, const char *rel);
char *lab_store_path(const struct lab *lab, const char *node, const char *rel);

/* Become COMMAND in the node's network (node "master": the master's), with the built programs on PATH, talking to that node.
 * Returns only on failure. */
int lab_exec(struct lab *lab, const char *node, char *const argv[], struct cdm_error *err);
/* Run it as a child. *ret_status: exit status, 128 + signal. *ret_output (may be NULL): what it wrote to stdout and stderr. */
int lab_run(struct lab *lab, const char *node, const char *const argv[], int *ret_status, char **ret_output, struct cdm_error *err);

/* cdmctl with these words (NULL-terminated, at most 30), as the administrator. What it says on failure is the error. */
int lab_cdmctl(struct lab *lab, const char *const words[], char **ret_output, struct cdm_error *err);

/* What `lab status --json` prints; the caller owns it. */
json_t *lab_status(struct lab *lab);

/* One request on a node's control socket (docs/internals.md 5); *ret is the last answer, the caller owns it. */
int lab_control(struct lab *lab, const char *node, json_t *request, int timeout_ms, json_t **ret, struct cdm_error *err);

/* Everything saved before the call is durable on all nodes, asked at each node (so whoever saved it). -ETIMEDOUT names what is lacking. */
int lab_wait_in_sync(struct lab *lab, int timeout_ms, struct cdm_error *err);
/* All nodes run, know each other and the set, and are in sync. */
int lab_wait_ready(struct lab *lab, int timeout_ms, struct cdm_error *err);

/* Until `holds` says true. It writes what it saw to `seen` (512 bytes), which is in the error at a time-out. */
typedef bool lab_condition_fn(void *arg, char *seen);
int lab_wait_for(lab_condition_fn *holds, void *arg, int timeout_ms, const char *what, struct cdm_error *err);

/* Are two trees equal: names (any byte), types, modes, owners, mtimes in ns, sizes, contents, xattrs with ACLs, groups of hard links,
 * targets of symlinks, device numbers? 0 = equal; 1 = not, `out` (may be NULL) has the first differences; negative errno = could not look.
 * `.cdmfs` at the top and `trusted.` xattrs do not count. */
int lab_same_tree(const char *a, const char *b, FILE *out, struct cdm_error *err);

/* A new directory for a test's lab on a filesystem that can be a store (trusted xattrs, file handles). The caller frees and removes. */
char *lab_scratch_dir(const char *name, struct cdm_error *err);
/* rm -r, never across a mount. */
int lab_remove_tree(const char *path, struct cdm_error *err);

#endif
