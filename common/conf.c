/* SPDX-License-Identifier: Apache-2.0 */
/* node.conf. Read by lines of our own: the usual library, as the distribution builds it, cuts lines at 200 bytes and
 * section names at 50, silently; a store's path may be longer. */
#include "common/conf.h"

#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "common/io.h"

#define CONF_DEFAULT_PATH "/etc/cdmfs/node.conf"
#define CONF_BYTES_MAX (1u << 20)
#define CONF_SETS_MAX 256
#define SET_NAME_MAX 63 /* as the master takes them */
#define JOURNAL_BYTES_MIN (4ull << 20)

enum section { SECTION_NONE, SECTION_NODE, SECTION_SET };

struct parser {
	struct cdm_conf *conf;
	struct cdm_error *err;
	unsigned line;
	enum section section;
	struct cdm_set_conf *set; /* while in a [set …] section */
	unsigned set_line;
};

static char *copy_string(const char *s)
{
	char *copy = strdup(s);
	assert(copy);
	return copy;
}

static int fail_at(const struct parser *p, const char *what, const char *subject)
{
	return cdm_fail_plain(p->err, EINVAL, "%s line %u: %s '%s'", p->conf->path, p->line, what, subject);
}

static char *trim(char *s)
{
	s += strspn(s, " \t\r");
	char *end = s + strlen(s);
	while (end > s && strchr(" \t\r", end[-1]))
		*--end = 0;
	return s;
}

static bool is_set_name(const char *name)
{
	static const char allowed[] = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-";
	size_t len = strlen(name);
	return len > 0 && len <= SET_NAME_MAX && strspn(name, allowed) == len && !strchr("._-", name[0]);
}

static int finish_set(struct parser *p)
{
	if (!p->set || p->set->store)
		return 0;
	cdm_fail_plain(p->err, EINVAL, "%s line %u: [set %s] has no store", p->conf->path, p->set_line, p->set->name);
	cdm_hint(p->err, "add a line: store = /path/of/the/backing/directory");
	return -EINVAL;
}

static int start_set(struct parser *p, const char *name)
{
	if (!is_set_name(name)) {
		int r = fail_at(p, "not a usable set name", name);
		cdm_hint(p->err, "letters, digits, '.', '_' and '-', at most %d, the first a letter or digit", SET_NAME_MAX);
		return r;
	}
	for (size_t i = 0; i < p->conf->set_count; i++)
		if (strcmp(p->conf->sets[i].name, name) == 0)
			return fail_at(p, "second section for set", name);
	if (p->conf->set_count == CONF_SETS_MAX)
		return fail_at(p, "too many sets, at", name);
	struct cdm_set_conf *grown = realloc(p->conf->sets, (p->conf->set_count + 1) * sizeof *grown);
	assert(grown);
	p->conf->sets = grown;
	p->set = &grown[p->conf->set_count++];
	*p->set = (struct cdm_set_conf){.name = copy_string(name)};
	p->set_line = p->line;
	p->section = SECTION_SET;
	return 0;
}

static int start_section(struct parser *p, char *line)
{
	int r = finish_set(p);
	if (r < 0)
		return r;
	p->set = NULL;
	char *close = strchr(line, ']');
	if (!close || *trim(close + 1)) {
		r = fail_at(p, "not a section line:", line);
		cdm_hint(p->err, "write [node] or [set NAME] on a line of its own");
		return r;
	}
	*close = 0;
	char *name = trim(line + 1);
	if (strcmp(name, "node") == 0) {
		p->section = SECTION_NODE;
		return 0;
	}
	if (strncmp(name, "set ", 4) == 0)
		return start_set(p, trim(name + 4));
	r = fail_at(p, "unknown section", name);
	cdm_hint(p->err, "known are [node] and [set NAME]");
	return r;
}

static int put_path(const struct parser *p, char **to, const char *value)
{
	if (*value != '/') {
		int r = fail_at(p, "not an absolute path:", value);
		cdm_hint(p->err, "paths in this file begin with '/'");
		return r;
	}
	*to = copy_string(value);
	for (size_t n = strlen(*to); n > 1 && (*to)[n - 1] == '/'; n--)
		(*to)[n - 1] = 0;
	return 0;
}

static int put_address(const struct parser *p, char **to, const char *value)
{
	const char *colon = strrchr(value, ':');
	char *end = NULL;
	unsigned long port = colon ? strtoul(colon + 1, &end, 10) : 0;
	bool bare_v6 = colon && memchr(value, ':', (size_t)(colon - value)) && (*value != '[' || colon[-1] != ']');
	if (!colon || colon == value || bare_v6 || end == colon + 1 || *end || port < 1 || port > 65535) {
		int r = fail_at(p, "not HOST:PORT:", value);
		cdm_hint(p->err, "for instance 10.0.0.1:7441, [2001:db8::1]:7441 or web07.example.net:7441");
		return r;
	}
	*to = copy_string(value);
	return 0;
}

static int put_size(const struct parser *p, uint64_t *to, const char *value)
{
	static const char units[] = "KMGT";
	char *end = NULL;
	errno = 0;
	uint64_t n = strtoull(value, &end, 10);
	bool good = *value >= '0' && *value <= '9' && errno == 0 && end > value;
	const char *unit = good && *end ? strchr(units, *end) : NULL;
	unsigned shift = unit ? 10 * (unsigned)(unit - units + 1) : 0;
	if (unit)
		end++;
	if (unit && strcmp(end, "iB") == 0)
		end += 2;
	if (!good || *end || (n << shift) >> shift != n || n << shift < JOURNAL_BYTES_MIN) {
		int r = fail_at(p, "not a usable size:", value);
		cdm_hint(p->err, "a number with K, M, G or T (1024 each), at least 4M");
		return r;
	}
	*to = n << shift;
	return 0;
}

enum key_type { KEY_PATH, KEY_ADDRESS, KEY_SIZE };
static const struct key { /* every key of the file */
	const char *name;
	enum section section;
	enum key_type type;
	size_t offset; /* in struct cdm_conf or struct cdm_set_conf */
} keys[] = {
	{"state", SECTION_NODE, KEY_PATH, offsetof(struct cdm_conf, state)},
	{"run", SECTION_NODE, KEY_PATH, offsetof(struct cdm_conf, run)},
	{"listen", SECTION_NODE, KEY_ADDRESS, offsetof(struct cdm_conf, listen)},
	{"advertise", SECTION_NODE, KEY_ADDRESS, offsetof(struct cdm_conf, advertise)},
	{"store", SECTION_SET, KEY_PATH, offsetof(struct cdm_set_conf, store)},
	{"mountpoint", SECTION_SET, KEY_PATH, offsetof(struct cdm_set_conf, mountpoint)},
	{"journal", SECTION_SET, KEY_SIZE, offsetof(struct cdm_set_conf, journal_bytes)},
	{"scrub", SECTION_SET, KEY_SIZE, offsetof(struct cdm_set_conf, scrub_rate)},
};
#define KEY_COUNT (sizeof keys / sizeof keys[0])

static int unknown_key(const struct parser *p, const char *name)
{
	char known[128] = "";
	for (size_t i = 0; i < KEY_COUNT; i++)
		if (keys[i].section == p->section)
			snprintf(known + strlen(known), sizeof known - strlen(known), "%s%s", *known ? ", " : "", keys[i].name);
	int r = fail_at(p, "unknown key", name);
	cdm_hint(p->err, "known in this section: %s", known);
	return r;
}

static int put_value(const struct parser *p, const struct key *key, const char *value)
{
	char *base = p->section == SECTION_SET ? (char *)p->set : (char *)p->conf;
	void *field = base + key->offset;
	bool given = key->type == KEY_SIZE ? *(uint64_t *)field != 0 : *(char **)field != NULL;
	if (given)
		return fail_at(p, "given twice in this section:", key->name);
	switch (key->type) {
	case KEY_PATH:
		return put_path(p, field, value);
	case KEY_ADDRESS:
		return put_address(p, field, value);
	case KEY_SIZE:
		return put_size(p, field, value);
	}
	return -EINVAL;
}

/* Comments begin with ';' or '#' at the start of a line or behind a blank. */
static void cut_comment(char *line)
{
	for (char *c = line; *c; c++)
		if ((*c == ';' || *c == '#') && (c == line || c[-1] == ' ' || c[-1] == '\t')) {
			*c = 0;
			return;
		}
}

static int parse_line(struct parser *p, char *line)
{
	cut_comment(line);
	line = trim(line);
	if (!*line)
		return 0;
	if (*line == '[')
		return start_section(p, line);
	char *equals = strchr(line, '=');
	if (!equals || equals == line) {
		int r = fail_at(p, "not a 'key = value' line:", line);
		cdm_hint(p->err, "comments begin with ';' or '#'");
		return r;
	}
	*equals = 0;
	const char *name = trim(line), *value = trim(equals + 1);
	if (p->section == SECTION_NONE) {
		int r = fail_at(p, "no section before key", name);
		cdm_hint(p->err, "begin with a line [node]");
		return r;
	}
	for (size_t i = 0; i < KEY_COUNT; i++)
		if (keys[i].section == p->section && strcmp(keys[i].name, name) == 0)
			return put_value(p, &keys[i], value);
	return unknown_key(p, name);
}

static int parse_text(struct parser *p, char *text, size_t len)
{
	if (memchr(text, 0, len))
		return cdm_fail_plain(p->err, EINVAL, "%s: not a text file (it holds a zero byte)", p->conf->path);
	if (strncmp(text, "\xef\xbb\xbf", 3) == 0)
		text += 3;
	for (char *line = text, *next; line; line = next) {
		next = strchr(line, '\n');
		if (next)
			*next++ = 0;
		p->line++;
		int r = parse_line(p, line);
		if (r < 0)
			return r;
	}
	return finish_set(p);
}

static bool is_beneath(const char *path, const char *dir)
{
	size_t n = strlen(dir);
	if (n == 1)
		return true; /* "/" */
	return strncmp(path, dir, n) == 0 && (path[n] == 0 || path[n] == '/');
}

/* Two sets must not share or contain each other's store, and no store may lie in a mount. */
static int check_places(const struct cdm_conf *conf, struct cdm_error *err)
{
	for (size_t i = 0; i < conf->set_count; i++) {
		const struct cdm_set_conf *a = &conf->sets[i];
		for (size_t j = 0; j < conf->set_count; j++) {
			const struct cdm_set_conf *b = &conf->sets[j];
			if (i != j && is_beneath(a->store, b->store))
				return cdm_fail_plain(err, EINVAL, "%s: the store of set %s lies in the store of set %s", conf->path,
					a->name, b->name);
			if (b->mountpoint && is_beneath(a->store, b->mountpoint)) {
				cdm_fail_plain(err, EINVAL, "%s: the store of set %s lies under the mountpoint of set %s", conf->path,
					a->name, b->name);
				cdm_hint(err, "keep stores apart from mountpoints, for instance in /srv/.cdmfs-store/%s", a->name);
				return -EINVAL;
			}
		}
	}
	return 0;
}

static void put_defaults(struct cdm_conf *conf)
{
	if (!conf->state)
		conf->state = copy_string("/var/lib/cdmfs");
	if (!conf->run)
		conf->run = copy_string("/run/cdmfs");
	if (!conf->listen)
		conf->listen = copy_string("0.0.0.0:7441");
	if (asprintf(&conf->control, "%s/control.sock", conf->run) < 0)
		abort();
}

int cdm_conf_load(const char *path, struct cdm_conf **ret, struct cdm_error *err)
{
	if (!path)
		path = getenv("CDMFS_CONFIG");
	if (!path || !*path)
		path = CONF_DEFAULT_PATH;
	_cleanup_free_ char *text = NULL;
	size_t len = 0;
	int r = cdm_read_file(AT_FDCWD, path, CONF_BYTES_MAX, &text, &len, err);
	if (r < 0) {
		if (r == -ENOENT)
			cdm_hint(err, "write this node's configuration there, or name another file by --config or CDMFS_CONFIG");
		return cdm_wrap(err, r, "node configuration");
	}
	struct cdm_conf *conf = calloc(1, sizeof *conf);
	assert(conf);
	conf->path = copy_string(path);
	struct parser parser = {.conf = conf, .err = err};
	r = parse_text(&parser, text, len);
	if (r == 0)
		r = check_places(conf, err);
	if (r < 0) {
		cdm_conf_free(&conf);
		return r;
	}
	put_defaults(conf);
	*ret = conf;
	return 0;
}

void cdm_conf_free(struct cdm_conf **conf)
{
	struct cdm_conf *c = *conf;
	*conf = NULL;
	if (!c)
		return;
	for (size_t i = 0; i < c->set_count; i++) {
		free(c->sets[i].name);
		free(c->sets[i].store);
		free(c->sets[i].mountpoint);
	}
	free(c->sets);
	free(c->path);
	free(c->state);
	free(c->run);
	free(c->listen);
	free(c->advertise);
	free(c->control);
	free(c);
}

const struct cdm_set_conf *cdm_conf_set(const struct cdm_conf *conf, const char *name, struct cdm_error *err)
{
	char known[200] = "";
	for (size_t i = 0; i < conf->set_count; i++) {
		if (strcmp(conf->sets[i].name, name) == 0)
			return &conf->sets[i];
		size_t used = strlen(known);
		snprintf(known + used, sizeof known - used, "%s%s", used ? ", " : "", conf->sets[i].name);
	}
	cdm_fail_plain(err, ENOENT, "unknown set '%s'", name);
	if (*known)
		cdm_hint(err, "sets in %s: %s", conf->path, known);
	else
		cdm_hint(err, "%s has no [set NAME] section yet; add one with store = …", conf->path);
	return NULL;
}

const struct cdm_set_conf *cdm_conf_set_of_path(const struct cdm_conf *conf, const char *path)
{
	const struct cdm_set_conf *best = NULL;
	size_t best_len = 0;
	for (size_t i = 0; i < conf->set_count; i++) {
		const char *places[] = {conf->sets[i].mountpoint, conf->sets[i].store};
		for (size_t k = 0; k < 2; k++) {
			size_t n = places[k] ? strlen(places[k]) : 0;
			if (n > best_len && is_beneath(path, places[k])) {
				best = &conf->sets[i];
				best_len = n;
			}
		}
	}
	return best;
}
