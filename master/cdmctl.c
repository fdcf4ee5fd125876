/* SPDX-License-Identifier: Apache-2.0 */
/* cdmctl NOUN VERB …: reads words and options by the table of commands, suggests the nearest word for a typing error. */
#include "master/cdmctl.h"

#include <curl/curl.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define COMMON_OPTIONS "json dry-run yes api token-file ca dir help"

int report_usage(const char *hint, const char *fmt, ...)
{
	struct cdm_error err = CDM_ERROR_INIT;
	va_list ap;
	va_start(ap, fmt);
	vsnprintf(err.text, sizeof err.text, fmt, ap);
	va_end(ap);
	snprintf(err.hint, sizeof err.hint, "%s", hint);
	cdm_error_print("cdmctl", &err);
	return EXIT_USAGE;
}

/* --- nearest word ----------------------------------------------------------------------------------------------- */

static size_t distance(const char *a, const char *b)
{
	size_t row[64], la = strlen(a), lb = strlen(b);
	if (la > 60 || lb > 60)
		return 60;
	for (size_t j = 0; j <= lb; j++)
		row[j] = j;
	for (size_t i = 1; i <= la; i++) {
		size_t diagonal = row[0];
		row[0] = i;
		for (size_t j = 1; j <= lb; j++) {
			size_t best = diagonal + (a[i - 1] != b[j - 1]);
			diagonal = row[j];
			if (row[j] + 1 < best)
				best = row[j] + 1;
			if (row[j - 1] + 1 < best)
				best = row[j - 1] + 1;
			row[j] = best;
		}
	}
	return row[lb];
}

struct nearest { const char *word; size_t far; };

static void consider(struct nearest *n, const char *given, const char *word)
{
	bool begins = given[0] && strncmp(word, given, strlen(given)) == 0; /* "stat" means status, not set */
	size_t far = begins ? 0 : distance(given, word);
	if (far < n->far)
		*n = (struct nearest){word, far};
}

static int report_unknown(const char *what, const char *given, const struct nearest *n, const char *more)
{
	char hint[200];
	if (n->word && n->far <= 1 + strlen(given) / 3)
		snprintf(hint, sizeof hint, "did you mean %s? %s", n->word, more);
	else
		snprintf(hint, sizeof hint, "%s", more);
	return report_usage(hint, "unknown %s \"%.80s\"", what, given);
}

/* --- help ------------------------------------------------------------------------------------------------------- */

static void print_help(const char *noun)
{
	if (!noun)
		puts("usage: cdmctl NOUN VERB …\n");
	for (size_t i = 0; i < command_count; i++) {
		const struct command *c = &commands[i];
		if (noun && strcmp(c->noun, noun) != 0)
			continue;
		char left[200];
		snprintf(left, sizeof left, "%s%s%s %s", c->noun, c->verb[0] ? " " : "", c->verb, c->synopsis);
		if (strlen(left) > 44)
			printf("  %s\n  %-44s  %s\n", left, "", c->help);
		else
			printf("  %-44s  %s\n", left, c->help);
	}
	puts("\nLIST: names, @group, @region, @all, separated by commas.   Common: --json, --dry-run, --yes\n"
	     "The master: --dir DIR on its host, or --api URL --token-file F --ca F (CDMFS_DIR, CDMFS_API, CDMFS_TOKEN_FILE, CDMFS_CA)\n"
	     "Exit codes: 0 good, 1 failure, 2 usage, 3 not in sync, 5 conflict");
}

static void print_command_help(const struct command *c)
{
	printf("usage: cdmctl %s%s%s %s\n  %s\n", c->noun, c->verb[0] ? " " : "", c->verb, c->synopsis, c->help);
}

/* --- options ---------------------------------------------------------------------------------------------------- */

static bool is_listed(const char *words, const char *word)
{
	size_t len = strlen(word);
	for (const char *w = words; *w;) {
		size_t n = strcspn(w, " ");
		if (n == len && memcmp(w, word, n) == 0)
			return true;
		w += n + strspn(w + n, " ");
	}
	return false;
}

static void consider_list(struct nearest *n, const char *given, const char *words)
{
	static char held[32][32];
	static size_t used;
	for (const char *w = words; *w && used < 32;) {
		size_t len = strcspn(w, " ");
		snprintf(held[used], sizeof held[0], "--%.*s", (int)len, w);
		consider(n, given, held[used++]);
		w += len + strspn(w + len, " ");
	}
}

static void add_words(json_t **list, const char *text, bool split)
{
	if (!*list)
		*list = json_array();
	if (!split) {
		json_array_append_new(*list, json_string(text));
		return;
	}
	for (const char *w = text; *w;) {
		size_t len = strcspn(w, ",");
		if (len > 0)
			json_array_append_new(*list, json_stringn(w, len));
		w += len + (w[len] == ',');
	}
}

/* Sets an option; returns whether it takes a value. */
static const char **text_option(struct options *o, const char *name)
{
	const struct { const char *name; const char **where; } texts[] = {
		{"api", &o->api}, {"token-file", &o->token_file}, {"ca", &o->ca}, {"dir", &o->dir}, {"region", &o->region}, {"group", &o->group},
		{"role", &o->role}, {"ttl", &o->ttl}, {"uses", &o->uses}, {"parent", &o->parent}, {"update", &o->update}, {"open", &o->open},
		{"capacity", &o->capacity}, {"node", &o->node}, {"store", &o->store}, {"default-excludes", &o->default_excludes},
		{"compression", &o->compression}, {"encryption", &o->encryption}, {"delta", &o->delta}, {"limit", &o->limit}};
	for (size_t i = 0; i < sizeof texts / sizeof texts[0]; i++)
		if (strcmp(texts[i].name, name) == 0)
			return texts[i].where;
	return NULL;
}

static json_t **list_option(struct options *o, const char *name)
{
	return strcmp(name, "source") == 0 ? &o->source : strcmp(name, "target") == 0 ? &o->target : strcmp(name, "both") == 0 ? &o->both
		: strcmp(name, "exclude") == 0 ? &o->exclude : strcmp(name, "local") == 0 ? &o->local
		: strcmp(name, "limit-at") == 0 ? &o->limit_at : NULL;
}

static bool *flag_option(struct options *o, const char *name)
{
	return strcmp(name, "json") == 0 ? &o->json : strcmp(name, "dry-run") == 0 ? &o->dry_run : strcmp(name, "yes") == 0 ? &o->yes
		: strcmp(name, "auto") == 0 ? &o->automatic : strcmp(name, "delete") == 0 ? &o->remove : NULL;
}

/* One --name[=value]; *i moves on over a value in the next word. 0 or an exit code. */
static int take_option(struct options *o, const struct command *c, int argc, char **argv, int *i)
{
	char name[64] = ""; /* no option has one letter */
	const char *word = argv[*i], *equals = strchr(word, '=');
	size_t len = equals ? (size_t)(equals - word) : strlen(word);
	if (word[1] == '-')
		snprintf(name, sizeof name, "%.*s", (int)(len - 2), word + 2);
	if (!is_listed(COMMON_OPTIONS, name) && !(c && is_listed(c->options, name))) {
		struct nearest n = {.far = 99};
		consider_list(&n, word, COMMON_OPTIONS);
		if (c)
			consider_list(&n, word, c->options);
		return report_unknown("option", word, &n, "--help shows what there is");
	}
	bool *flag = flag_option(o, name);
	if (flag) {
		*flag = true;
		return equals ? report_usage("leave the value away", "--%s takes no value", name) : 0;
	}
	const char *value = equals ? equals + 1 : *i + 1 < argc ? argv[++*i] : NULL;
	if (!value)
		return report_usage("--help shows how it is written", "--%s needs a value", name);
	json_t **list = list_option(o, name);
	if (list)
		add_words(list, value, list == &o->source || list == &o->target || list == &o->both);
	else
		*text_option(o, name) = value;
	return 0;
}

/* --- finding the command ---------------------------------------------------------------------------------------- */

static const struct command *find_command(const char *noun, const char *verb, int *code)
{
	struct nearest nouns = {.far = 99}, verbs = {.far = 99};
	bool known = false;
	for (size_t i = 0; i < command_count; i++) {
		const struct command *c = &commands[i];
		consider(&nouns, noun, c->noun);
		if (strcmp(c->noun, noun) != 0)
			continue;
		known = true;
		if (!c->verb[0] || (verb && strcmp(c->verb, verb) == 0))
			return c;
		if (verb)
			consider(&verbs, verb, c->verb);
	}
	char more[100];
	snprintf(more, sizeof more, "cdmctl %s --help shows all", known ? noun : "");
	if (!known)
		*code = report_unknown("noun", noun, &nouns, "cdmctl --help shows all");
	else if (!verb)
		*code = report_usage(more, "%s what?", noun);
	else
		*code = report_unknown("verb", verb, &verbs, more);
	return NULL;
}

static bool is_help(const char *word)
{
	return strcmp(word, "--help") == 0 || strcmp(word, "-h") == 0;
}

static bool wants_value(const char *word)
{
	struct options none = {0};
	return strncmp(word, "--", 2) == 0 && !strchr(word, '=') && (text_option(&none, word + 2) || list_option(&none, word + 2));
}

/* The index of the nth word that is no option, or argc. */
static int nth_word(int argc, char **argv, int n)
{
	for (int i = 1; i < argc; i++) {
		if (wants_value(argv[i]))
			i++;
		else if (argv[i][0] != '-' && n-- == 0)
			return i;
	}
	return argc;
}

static int run(int argc, char **argv, struct options *o)
{
	int code = EXIT_USAGE, noun = nth_word(argc, argv, 0), verb = nth_word(argc, argv, 1);
	bool help = false;
	for (int i = 1; i < argc; i++)
		help |= is_help(argv[i]);
	if (argc > 1 && (strcmp(argv[1], "--version") == 0 || strcmp(argv[1], "-V") == 0)) {
		puts("cdmctl " CDM_VERSION);
		return EXIT_GOOD;
	}
	if (noun < argc && strcmp(argv[noun], "help") == 0) {
		print_help(NULL);
		return EXIT_GOOD;
	}
	if (noun == argc || is_help(argv[noun])) {
		if (help)
			print_help(NULL);
		return help ? EXIT_GOOD : report_usage("cdmctl --help shows all commands", "what is to be done?");
	}
	if (help && (verb == argc || is_help(argv[verb]))) {
		print_help(argv[noun]);
		return EXIT_GOOD;
	}
	const struct command *c = find_command(argv[noun], verb < argc ? argv[verb] : NULL, &code);
	if (!c)
		return code;
	if (help) {
		print_command_help(c);
		return EXIT_GOOD;
	}
	for (int i = 1; i < argc; i++) {
		if (i == noun || (i == verb && c->verb[0]))
			continue;
		if (argv[i][0] == '-' && argv[i][1]) {
			code = take_option(o, c, argc, argv, &i);
			if (code)
				return code;
		} else if (o->word_count == c->high) {
			return report_usage("--help shows how it is written", "unexpected word \"%.80s\"", argv[i]);
		} else {
			o->words[o->word_count++] = argv[i];
		}
	}
	if (o->word_count < c->low) {
		char hint[200];
		snprintf(hint, sizeof hint, "usage: cdmctl %s %s %s", c->noun, c->verb, c->synopsis);
		return report_usage(hint, "%s %s: something is missing", c->noun, c->verb);
	}
	return c->run(c, o);
}

int main(int argc, char **argv)
{
	struct options o = {0};
	curl_global_init(CURL_GLOBAL_DEFAULT);
	int code = run(argc, argv, &o);
	json_decref(o.source);
	json_decref(o.target);
	json_decref(o.both);
	json_decref(o.exclude);
	json_decref(o.local);
	json_decref(o.limit_at);
	curl_global_cleanup();
	return code;
}
