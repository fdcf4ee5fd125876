/* SPDX-License-Identifier: Apache-2.0 */
/* lab — a whole installation on one machine; the verbs of lab.h as a command. */
#include <errno.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include "common/loop.h"
#include "tests/lab/lab.h"

static const char usage_text[] =
	"usage: lab COMMAND --dir D\n"
	"  up --nodes N [--netns] [--rate RATE] [--delay T] [--groups G] [--regions R] [--sources n1,n2] [--journal 64M]\n"
	"     [--certificate-life 5m]\n"
	"                              a master and N nodes, mounts at D/n1/mnt, D/n2/mnt …; a lab that is down starts again\n"
	"  down [--purge]              end all of it; --purge removes the directory, too\n"
	"  status [--json]             what runs where\n"
	"  run NODE -- COMMAND…        in the node's network, talking to that node (NODE may be master)\n"
	"  kill NODE PROGRAM [--signal S]   kill master [--signal S]      PROGRAM: cdmfs (the mount's server), cdmfs-holder,\n"
	"  start NODE PROGRAM               start master                  cdmfs-watcher, replicator, all\n"
	"  cut NODE | heal NODE        pull and put back its network cable          (with --netns)\n"
	"  slow NODE RATE              another rate: 2mbit, 1gbit, off               (with --netns)\n"
	"  add-node [--group G]        one more\n"
	"D may also come from the environment as CDMFS_LAB. RATE: 100mbit; T: 20ms, 500us, 1s (one way, node to node).\n";

struct arguments {
	const char *command, *dir, *rate, *delay, *group, *signal, *sources, *journal, *certificate_life;
	const char *nodes, *groups, *regions;
	bool netns, json, purge, help;
	char *words[8]; /* NODE PROGRAM … */
	int word_count;
	char **run;     /* what follows -- */
};

struct option_row {
	const char *name;
	const char **value; /* or */
	bool *flag;
};

static int usage_error(struct cdm_error *err, const char *what, const char *word)
{
	cdm_fail_plain(err, EINVAL, "%s%s", what, word);
	cdm_hint(err, "`lab --help` shows the commands");
	return -EINVAL;
}

static int parse_option(struct arguments *a, char **argv, int *i, struct cdm_error *err)
{
	const struct option_row rows[] = {{"--dir", &a->dir, NULL}, {"--rate", &a->rate, NULL}, {"--delay", &a->delay, NULL},
		{"--group", &a->group, NULL}, {"--signal", &a->signal, NULL}, {"--sources", &a->sources, NULL}, {"--nodes", &a->nodes, NULL},
		{"--journal", &a->journal, NULL}, {"--certificate-life", &a->certificate_life, NULL},
		{"--groups", &a->groups, NULL}, {"--regions", &a->regions, NULL}, {"--netns", NULL, &a->netns}, {"--json", NULL, &a->json},
		{"--purge", NULL, &a->purge}, {"--help", NULL, &a->help}};
	for (size_t k = 0; k < sizeof rows / sizeof *rows; k++) {
		size_t n = strlen(rows[k].name);
		if (strncmp(argv[*i], rows[k].name, n) != 0 || (argv[*i][n] && argv[*i][n] != '='))
			continue;
		if (rows[k].flag) {
			*rows[k].flag = true;
			return 0;
		}
		*rows[k].value = argv[*i][n] == '=' ? argv[*i] + n + 1 : argv[++*i];
		return *rows[k].value ? 0 : usage_error(err, "a value must follow ", rows[k].name);
	}
	return usage_error(err, "unknown option ", argv[*i]);
}

static int parse(int argc, char **argv, struct arguments *a, struct cdm_error *err)
{
	for (int i = 1; i < argc; i++) {
		if (strcmp(argv[i], "--") == 0) {
			a->run = argv + i + 1;
			break;
		}
		if (strcmp(argv[i], "-h") == 0) {
			a->help = true;
		} else if (strncmp(argv[i], "--", 2) == 0) {
			int r = parse_option(a, argv, &i, err);
			if (r < 0)
				return r;
		} else if (!a->command) {
			a->command = argv[i];
		} else if (strcmp(a->command, "run") == 0 && a->word_count == 1) { /* without -- */
			a->run = argv + i;
			break;
		} else if (a->word_count < (int)(sizeof a->words / sizeof *a->words)) {
			a->words[a->word_count++] = argv[i];
		}
	}
	if (!a->dir)
		a->dir = getenv("CDMFS_LAB");
	if (a->help)
		return 0;
	if (!a->command)
		return usage_error(err, "which command?", "");
	if (!a->dir || !*a->dir)
		return usage_error(err, "which lab? Give --dir D", "");
	return 0;
}

static int parse_count(const char *text, const char *what, unsigned *ret, struct cdm_error *err)
{
	char *end;
	if (!text)
		return 0;
	errno = 0;
	unsigned long value = strtoul(text, &end, 10);
	if (*end || end == text || errno || value < 1 || value > LAB_NODES_MAX)
		return cdm_fail_plain(err, EINVAL, "%s %s: must be a number from 1 to %d", what, text, LAB_NODES_MAX);
	*ret = (unsigned)value;
	return 0;
}

static int parse_delay(const char *text, int64_t *ret_us, struct cdm_error *err)
{
	char *end;
	if (!text)
		return 0;
	double value = strtod(text, &end);
	double factor = strcmp(end, "us") == 0 ? 1 : strcmp(end, "s") == 0 ? 1e6 : *end == 0 || strcmp(end, "ms") == 0 ? 1e3 : -1;
	if (end == text || factor < 0 || !(value >= 0) || value * factor > 10e6)
		return cdm_fail_plain(err, EINVAL, "'%s' is not a delay: write 20ms, 500us, 1s (at most 10s)", text);
	*ret_us = (int64_t)(value * factor);
	return 0;
}

static int parse_signal(const char *text, int *ret, struct cdm_error *err)
{
	if (!text)
		return 0;
	const char *name = strncasecmp(text, "SIG", 3) == 0 ? text + 3 : text;
	char *end;
	long number = strtol(text, &end, 10);
	if (!*end && end != text && number > 0 && number < NSIG) {
		*ret = (int)number;
		return 0;
	}
	for (int s = 1; s < NSIG; s++)
		if (sigabbrev_np(s) && strcasecmp(sigabbrev_np(s), name) == 0) {
			*ret = s;
			return 0;
		}
	return cdm_fail_plain(err, EINVAL, "unknown signal %s", text);
}

/* -- commands ---------------------------------------------------------------------------------------------------- */

static int command_up(const struct arguments *a, struct cdm_error *err)
{
	struct lab_options o = {.dir = a->dir, .netns = a->netns, .rate = a->rate, .sources = a->sources, .journal = a->journal,
		.certificate_life = a->certificate_life};
	int64_t begin = cdm_now_ms();
	int r = parse_count(a->nodes, "--nodes", &o.nodes, err);
	if (r == 0)
		r = parse_count(a->groups, "--groups", &o.groups, err);
	if (r == 0)
		r = parse_count(a->regions, "--regions", &o.regions, err);
	if (r == 0)
		r = parse_delay(a->delay, &o.delay_us, err);
	if (r < 0)
		return r;
	struct lab *lab = NULL;
	r = lab_up(&o, &lab, err);
	if (r < 0)
		return r;
	json_t *status = lab_status(lab);
	printf("master %s   admin token: %s/admin.token\nmounts", json_string_value(json_object_get(json_object_get(status, "master"), "url")),
		lab_dir(lab));
	for (unsigned i = 0; i < lab_node_count(lab); i++)
		printf(" %s", lab_mount(lab, lab_node_name(lab, i)));
	printf("   set " LAB_SET "   ready in %.1f s\n", (double)(cdm_now_ms() - begin) / 1000);
	json_decref(status);
	lab_close(&lab);
	return 0;
}

static int command_down(struct lab *lab, const struct arguments *a, struct cdm_error *err)
{
	int r = lab_down(lab, err);
	if (r == 0 && a->purge)
		r = lab_remove(lab, err);
	if (r == 0)
		printf(a->purge ? "%s is down and removed\n" : "%s is down\n", lab_dir(lab));
	return r;
}

static const char *pid_text(const json_t *pids, const char *key, char buf[24])
{
	const json_t *pid = json_object_get(pids, key);
	snprintf(buf, 24, json_is_integer(pid) ? "%lld" : "-", (long long)json_integer_value(pid));
	return buf;
}

static void print_table(const json_t *status)
{
	const json_t *master = json_object_get(status, "master"), *node;
	char b[4][24];
	size_t i;
	printf("master %s   pid %s\n", json_string_value(json_object_get(master, "url")), pid_text(master, "pid", b[0]));
	printf("%-5s %-9s %-9s %-9s %-10s %-16s %s\n", "NODE", "CDMFS", "HOLDER", "WATCHER", "REPLICATOR", "ADDRESS", "MOUNT");
	json_array_foreach(json_object_get(status, "nodes"), i, node) {
		const json_t *pids = json_object_get(node, "pids");
		printf("%-5s %-9s %-9s %-9s %-10s %-16s %s\n", json_string_value(json_object_get(node, "name")), pid_text(pids, "cdmfs", b[0]),
			pid_text(pids, "holder", b[1]), pid_text(pids, "watcher", b[2]), pid_text(pids, "replicator", b[3]),
			json_string_value(json_object_get(node, "addr")), json_string_value(json_object_get(node, "mount")));
	}
}

static int command_status(struct lab *lab, const struct arguments *a, struct cdm_error *err)
{
	json_t *status = lab_status(lab);
	if (!status)
		return cdm_fail(err, ENOMEM, "status");
	if (a->json) {
		json_dumpf(status, stdout, JSON_COMPACT);
		putchar('\n');
	} else {
		print_table(status);
	}
	json_decref(status);
	return 0;
}

/* NODE PROGRAM, or "master". *ret_program LAB_PROGRAMS stands for all of the node's. */
static int which_program(const struct arguments *a, const char **ret_node, enum lab_program *ret_program, struct cdm_error *err)
{
	if (a->word_count == 1 && strcmp(a->words[0], "master") == 0) {
		*ret_node = NULL;
		*ret_program = LAB_MASTER;
		return 0;
	}
	if (a->word_count != 2)
		return usage_error(err, "which program? Write NODE PROGRAM, or master", "");
	*ret_node = a->words[0];
	*ret_program = lab_program_find(a->words[1]);
	if (*ret_program == LAB_MASTER || (*ret_program == LAB_PROGRAMS && strcmp(a->words[1], "all") != 0)) {
		cdm_fail_plain(err, EINVAL, "unknown program %s", a->words[1]);
		cdm_hint(err, "programs of a node: cdmfs, cdmfs-holder, cdmfs-watcher, replicator, all");
		return -EINVAL;
	}
	return 0;
}

static int kill_one(struct lab *lab, const char *node, enum lab_program program, int signal, struct cdm_error *err)
{
	pid_t pid = 0;
	int r = lab_kill(lab, node, program, signal, &pid, err);
	if (r == 0)
		printf("%s%s%s (pid %d) %s%s\n", node ?: "", node ? " " : "", lab_program_names[program], (int)pid,
			signal == SIGKILL ? "killed" : "got SIG", signal == SIGKILL ? "" : sigabbrev_np(signal) ?: "?");
	return r;
}

static int command_kill(struct lab *lab, const struct arguments *a, struct cdm_error *err)
{
	const char *node;
	enum lab_program program;
	int signal = SIGKILL;
	int r = which_program(a, &node, &program, err);
	if (r == 0)
		r = parse_signal(a->signal, &signal, err);
	if (r < 0)
		return r;
	if (program < LAB_PROGRAMS)
		return kill_one(lab, node, program, signal, err);
	for (program = LAB_HOLDER; r == 0 && program <= LAB_REPLICATOR; program++) /* the holder first: it would start the others again */
		if (lab_pid(lab, node, program))
			r = kill_one(lab, node, program, signal, err);
	return r;
}

static int start_one(struct lab *lab, const char *node, enum lab_program program, struct cdm_error *err)
{
	int r = lab_start(lab, node, program, err);
	if (r == 0)
		printf("%s%s%s (pid %d) runs\n", node ?: "", node ? " " : "", lab_program_names[program], (int)lab_pid(lab, node, program));
	return r;
}

static int command_start(struct lab *lab, const struct arguments *a, struct cdm_error *err)
{
	const char *node;
	enum lab_program program;
	int r = which_program(a, &node, &program, err);
	if (r < 0)
		return r;
	if (program < LAB_PROGRAMS)
		return start_one(lab, node, program, err);
	for (program = LAB_HOLDER; r == 0 && program <= LAB_REPLICATOR; program++)
		r = start_one(lab, node, program, err);
	return r;
}

static int command_net(struct lab *lab, const struct arguments *a, struct cdm_error *err)
{
	bool slow = strcmp(a->command, "slow") == 0;
	if (a->word_count != 1 + slow)
		return usage_error(err, slow ? "write: lab slow NODE RATE" : "which node?", "");
	const char *node = a->words[0];
	int r = slow ? lab_slow(lab, node, a->words[1], err) : strcmp(a->command, "cut") == 0 ? lab_cut(lab, node, err) : lab_heal(lab, node, err);
	if (r == 0)
		printf(slow ? "%s network at %s\n" : strcmp(a->command, "cut") == 0 ? "%s network cut\n" : "%s network healed\n", node,
			slow ? a->words[1] : "");
	return r;
}

static int command_add_node(struct lab *lab, const struct arguments *a, struct cdm_error *err)
{
	int64_t begin = cdm_now_ms();
	const char *name;
	int r = lab_add_node(lab, a->group, &name, err);
	if (r == 0)
		printf("%s added   mount %s   ready in %.1f s\n", name, lab_mount(lab, name), (double)(cdm_now_ms() - begin) / 1000);
	return r;
}

static int command_run(struct lab *lab, const struct arguments *a, struct cdm_error *err)
{
	if (a->word_count != 1 || !a->run || !*a->run)
		return usage_error(err, "write: lab run NODE -- COMMAND…", "");
	return lab_exec(lab, a->words[0], a->run, err);
}

static const struct command {
	const char *name;
	int (*fn)(struct lab *lab, const struct arguments *a, struct cdm_error *err);
	bool change;
} commands[] = {
	{"down", command_down, true}, {"status", command_status, false}, {"run", command_run, false}, {"kill", command_kill, true},
	{"start", command_start, true}, {"cut", command_net, true}, {"heal", command_net, true}, {"slow", command_net, true},
	{"add-node", command_add_node, true},
};

static int dispatch(const struct arguments *a, struct cdm_error *err)
{
	if (strcmp(a->command, "up") == 0)
		return command_up(a, err);
	for (size_t i = 0; i < sizeof commands / sizeof *commands; i++) {
		if (strcmp(a->command, commands[i].name) != 0)
			continue;
		struct lab *lab = NULL;
		int r = lab_open(a->dir, commands[i].change, &lab, err);
		if (r == 0)
			r = commands[i].fn(lab, a, err);
		lab_close(&lab);
		return r;
	}
	return usage_error(err, "unknown command ", a->command);
}

int main(int argc, char **argv)
{
	struct arguments a = {0};
	struct cdm_error err = CDM_ERROR_INIT;
	int r = parse(argc, argv, &a, &err);
	if (r == 0 && a.help) {
		fputs(usage_text, stdout);
		return 0;
	}
	if (r == 0)
		r = dispatch(&a, &err);
	if (r == 0)
		return 0;
	cdm_error_print("lab", &err);
	bool run = a.command && strcmp(a.command, "run") == 0;
	return r == -EINVAL ? 2 : run && r == -ENOENT ? 127 : 1;
}
