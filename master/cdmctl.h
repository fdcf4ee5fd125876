/* SPDX-License-Identifier: Apache-2.0 */
/* cdmctl.h — the command line of the HTTP API. cdmctl.c reads words and options by one table, cdmctl_http.c talks to the
 * master, cdmctl_run.c, cdmctl_set.c, cdmctl_section.c, cdmctl_hold.c and cdmctl_kept.c do the commands. */
#ifndef MASTER_CDMCTL_H
#define MASTER_CDMCTL_H

#include <jansson.h>
#include <stdbool.h>
#include "common/error.h"

enum { EXIT_GOOD = 0, EXIT_FAILED = 1, EXIT_USAGE = 2, EXIT_NOT_IN_SYNC = 3, EXIT_CONFLICT = 5 };

struct options {
	const char *api, *token_file, *ca, *dir;
	bool json, dry_run, yes, automatic, remove;
	const char *region, *group, *role, *ttl, *uses, *parent, *update, *open, *capacity, *default_excludes, *node, *store;
	const char *compression, *encryption, *delta, *limit;
	json_t *source, *target, *both, *exclude, *local, *limit_at; /* arrays; NULL: not given */
	const char *words[4]; /* after noun and verb */
	int word_count;
	long patience_s;      /* how long the answer may take; 0: a minute */
};
struct command {
	const char *noun, *verb; /* verb "" where the noun stands alone */
	const char *synopsis;    /* what follows noun and verb */
	const char *help;
	int low, high;           /* how many words */
	const char *options;     /* allowed ones, separated by blanks, beside the common ones */
	int (*run)(const struct command *c, const struct options *o);
};
extern const struct command commands[];
extern const size_t command_count;

/* One call. Problems are printed (with hint); then the answer is NULL and *code the exit code. body's reference is taken over. */
json_t *master_call(const struct options *o, const char *method, const char *path, json_t *body, int *code);
/* Print events as they come until interrupted. */
int master_follow(const struct options *o);

/* What the commands share. */
const char *answer_text(const json_t *answer, const char *key); /* "" when it is missing */
json_int_t answer_number(const json_t *answer, const char *key);
const char *one_or_more(json_int_t count); /* "" or "s" */
int print_json(json_t *answer); /* takes the reference; the exit code */
/* A path of the API with a name in it. */
void put_path(char *out, size_t room, const char *head, const char *name, const char *tail);
/* Make a change, then say so in one line (or the answer with --json). */
int make_change(const struct options *o, const char *method, const char *path, json_t *body, const char *said);
/* Removing needs a yes; without one *code is the exit code. */
bool is_sure(const struct options *o, const char *what, int *code);
int remove_one(const struct options *o, const char *noun, const char *plural, const char *consequence);

int run_set_add(const struct command *c, const struct options *o);
int run_set_list(const struct command *c, const struct options *o);
int run_set_show(const struct command *c, const struct options *o);
int run_set_change(const struct command *c, const struct options *o);
int run_set_remove(const struct command *c, const struct options *o);
int run_set_pause(const struct command *c, const struct options *o);
int run_set_resume(const struct command *c, const struct options *o);
int run_set_adopt(const struct command *c, const struct options *o);
int run_scrub(const struct command *c, const struct options *o);
int run_rescan(const struct command *c, const struct options *o);
int run_section_list(const struct command *c, const struct options *o);
int run_section_show(const struct command *c, const struct options *o);
int run_section_set(const struct command *c, const struct options *o);
void print_set_cost(const json_t *cost); /* one line; nothing when nobody said what it cost */
int run_hold_list(const struct command *c, const struct options *o);
int run_hold_approve(const struct command *c, const struct options *o);
int run_hold_reject(const struct command *c, const struct options *o);
int run_conflict_list(const struct command *c, const struct options *o);
int run_conflict_show(const struct command *c, const struct options *o);
int run_conflict_take(const struct command *c, const struct options *o);
int run_conflict_drop(const struct command *c, const struct options *o);
int run_quarantine_list(const struct command *c, const struct options *o);
int run_quarantine_retry(const struct command *c, const struct options *o);
int run_quarantine_drop(const struct command *c, const struct options *o);
int run_status(const struct command *c, const struct options *o);

int report_usage(const char *hint, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

#endif
