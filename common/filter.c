/* SPDX-License-Identifier: Apache-2.0 */
#include "common/filter.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include "common/error.h"

#define PATTERN_LEN_MAX 1024

const char *const cdm_filter_default_excludes[] = {
	/* vim */
	".*.swp", ".*.swo", ".*.swx", ".*.sw[a-n]", ".*.swpx", ".swp", ".swpx", "4913",
	/* emacs and others: backups, locks, auto-saves */
	"*~", ".#*", "#*#",
	/* office suites' locks */
	".~lock.*#", "~$*",
	/* removed while open, of NFS and FUSE */
	".nfs*", ".fuse_hidden*",
	NULL,
};

void cdm_filter_add(struct cdm_filter *f, const char *pattern)
{
	char **grown = realloc(f->patterns, (f->count + 1) * sizeof *grown);
	char *copy = strdup(pattern);
	assert(grown && copy);
	f->patterns = grown;
	f->patterns[f->count++] = copy;
}

void cdm_filter_fini(struct cdm_filter *f)
{
	for (size_t i = 0; i < f->count; i++)
		free(f->patterns[i]);
	free(f->patterns);
	*f = (struct cdm_filter){0};
}

/* Behind the ']' of the set that starts at p (just after '['), or NULL when it is not closed before end. */
static const char *set_end(const char *p, const char *end)
{
	if (p < end && (*p == '!' || *p == '^'))
		p++;
	if (p < end && *p == ']')
		p++;
	for (; p < end; p++) {
		if (*p == ']')
			return p + 1;
		if (*p == '\\')
			p++;
	}
	return NULL;
}

static unsigned char set_char(const char **p, const char *close)
{
	if (**p == '\\' && *p + 1 < close)
		(*p)++;
	return (unsigned char)*(*p)++;
}

/* Is c in the set between p (just after '[') and close (at its ']')? */
static bool set_has(const char *p, const char *close, unsigned char c)
{
	bool negated = *p == '!' || *p == '^', found = false;
	if (negated)
		p++;
	while (p < close) {
		unsigned char low = set_char(&p, close), high = low;
		if (p + 1 < close && *p == '-') {
			p++;
			high = set_char(&p, close);
		}
		if (c >= low && c <= high)
			found = true;
	}
	return found != negated;
}

/* One pattern element that stands for exactly one byte: does c match it? *p moves behind it. */
static bool match_one(const char **p, const char *end, unsigned char c)
{
	const char *q = *p;
	const char *behind;
	switch (*q) {
	case '?':
		*p = q + 1;
		return c != '/';
	case '[':
		behind = set_end(q + 1, end);
		if (!behind)
			break; /* never closed: an ordinary byte */
		*p = behind;
		return c != '/' && set_has(q + 1, behind - 1, c);
	case '\\':
		if (q + 1 < end)
			q++;
		break;
	default:
		break;
	}
	*p = q + 1;
	return c == (unsigned char)*q;
}

struct backup { /* where to go on after a mismatch: the wildcard takes one step more of the text */
	const char *pattern, *text;
};

/* Is *p a double star? Then *p moves behind it, and *ret_dirs says whether it stands for whole components (a double star and a '/' at the
 * start of a component). */
static bool take_double_star(const char **p, const char *start, const char *end, bool *ret_dirs)
{
	const char *q = *p;
	if (q + 1 >= end || q[0] != '*' || q[1] != '*')
		return false;
	bool at_component = q == start || q[-1] == '/';
	while (q < end && *q == '*')
		q++;
	*ret_dirs = at_component && q < end && *q == '/';
	*p = *ret_dirs ? q + 1 : q;
	return true;
}

/* Does the pattern match text up to its end or up to a '/' (a directory above)? After a mismatch only the latest wildcard
 * of each strength has to be tried again: what an earlier one could take instead, the later one can take as well. */
static bool match_path(const char *pattern, const char *end, const char *text, const char *text_end)
{
	struct backup star = {0}, deep = {0};
	bool deep_dirs = false;
	const char *start = pattern;
	for (;;) {
		bool dirs;
		if (take_double_star(&pattern, start, end, &dirs)) {
			deep = (struct backup){pattern, text};
			deep_dirs = dirs;
			star = (struct backup){0};
			continue;
		}
		if (pattern < end && *pattern == '*') {
			star = (struct backup){++pattern, text};
			continue;
		}
		if (pattern == end) {
			if (text == text_end || *text == '/')
				return true;
		} else if (text < text_end && match_one(&pattern, end, (unsigned char)*text)) {
			text++;
			continue;
		}
		if (star.pattern && star.text < text_end && *star.text != '/') {
			pattern = star.pattern;
			text = ++star.text;
		} else if (deep.pattern && deep.text < text_end) {
			const char *next = deep.text + 1;
			if (deep_dirs) {
				next = memchr(deep.text, '/', (size_t)(text_end - deep.text));
				if (!next)
					return false;
				next++;
			}
			pattern = deep.pattern;
			text = deep.text = next;
			star = (struct backup){0};
		} else {
			return false;
		}
	}
}

static bool match_any_component(const char *pattern, const char *end, const char *path, const char *path_end)
{
	while (path < path_end) {
		const char *slash = memchr(path, '/', (size_t)(path_end - path));
		const char *component_end = slash ? slash : path_end;
		if (match_path(pattern, end, path, component_end))
			return true;
		path = component_end + 1;
	}
	return false;
}

/* A '/' at the end says "directory"; what matches a directory matches all below it anyway, so it is left away. */
static bool match_pattern(const char *pattern, const char *path, const char *path_end)
{
	const char *end = pattern + strlen(pattern);
	while (end > pattern && end[-1] == '/')
		end--;
	if (end == pattern)
		return false;
	if (!memchr(pattern, '/', (size_t)(end - pattern)))
		return match_any_component(pattern, end, path, path_end);
	if (*pattern == '/')
		pattern++;
	return match_path(pattern, end, path, path_end);
}

const char *cdm_filter_match(const struct cdm_filter *f, const char *path, size_t len)
{
	for (size_t i = 0; i < f->count; i++)
		if (match_pattern(f->patterns[i], path, path + len))
			return f->patterns[i];
	return NULL;
}

static int check_component(const char *whole, const char *p, size_t len, struct cdm_error *err)
{
	if (len == 0)
		return cdm_fail_plain(err, EINVAL, "pattern '%s': empty component (two '/' in a row)", whole);
	if ((len == 1 && *p == '.') || (len == 2 && memcmp(p, "..", 2) == 0)) {
		cdm_fail_plain(err, EINVAL, "pattern '%s': a component '.' or '..' matches nothing", whole);
		cdm_hint(err, "write patterns from the set's root, without a leading './'");
		return -EINVAL;
	}
	return 0;
}

/* Brackets closed, no backslash at the end. */
static int check_elements(const char *pattern, const char *end, struct cdm_error *err)
{
	for (const char *p = pattern; p < end; p++) {
		if (*p == '\\') {
			if (++p == end)
				return cdm_fail_plain(err, EINVAL, "pattern '%s': nothing behind the last '\\'", pattern);
			continue;
		}
		if (*p != '[')
			continue;
		const char *behind = set_end(p + 1, end);
		if (!behind) {
			cdm_fail_plain(err, EINVAL, "pattern '%s': '[' is never closed", pattern);
			cdm_hint(err, "write '\\[' for the character itself");
			return -EINVAL;
		}
		if (memchr(p, '/', (size_t)(behind - p)))
			return cdm_fail_plain(err, EINVAL, "pattern '%s': a '/' inside [ ] matches nothing", pattern);
		if (p[1] == '[' && p[2] == ':') {
			cdm_fail_plain(err, EINVAL, "pattern '%s': named classes such as [[:digit:]] are not known", pattern);
			cdm_hint(err, "write the range, for instance [0-9]");
			return -EINVAL;
		}
		p = behind - 1;
	}
	return 0;
}

int cdm_filter_check(const char *pattern, struct cdm_error *err)
{
	size_t len = strlen(pattern);
	if (len > PATTERN_LEN_MAX)
		return cdm_fail_plain(err, EINVAL, "pattern of %zu bytes: at most %d are allowed", len, PATTERN_LEN_MAX);
	const char *p = pattern, *end = pattern + len;
	if (p < end && *p == '/')
		p++;
	if (end > p && end[-1] == '/')
		end--;
	if (p == end)
		return cdm_fail_plain(err, EINVAL, "pattern '%s' names nothing", pattern);
	int r = check_elements(pattern, pattern + len, err);
	while (r == 0 && p <= end) {
		const char *slash = memchr(p, '/', (size_t)(end - p));
		size_t n = (size_t)((slash ? slash : end) - p);
		r = check_component(pattern, p, n, err);
		p += n + 1;
	}
	return r;
}
