/* SPDX-License-Identifier: Apache-2.0 */
/* lab_tree.c — compare two trees in everything that replication promises to keep; make and remove directories of tests. */
#include "tests/lab/lab_private.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/fs.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <sys/xattr.h>
#include <unistd.h>
#include "common/io.h"

#define DIFFERENCES_SHOWN 20
#define COMPARE_BYTES (256u << 10)

/* The first path of each inode with several names, per side. Open addressing, doubled when three quarters full. */
struct link_table {
	struct {
		ino_t ino;
		char *path; /* NULL: free */
	} *slots;
	size_t size, used;
};

struct compare {
	struct link_table links_a, links_b;
	char *buf_a, *buf_b;
	FILE *out;
	unsigned differences;
};

static void differ(struct compare *c, const char *path, const char *fmt, ...) __attribute__((format(printf, 3, 4)));
static void differ(struct compare *c, const char *path, const char *fmt, ...)
{
	if (++c->differences > DIFFERENCES_SHOWN || !c->out)
		return;
	for (const char *p = *path ? path : "."; *p; p++)
		if ((unsigned char)*p < 32 || *p == 127)
			fprintf(c->out, "\\%03o", (unsigned char)*p);
		else
			fputc(*p, c->out);
	fputs(": ", c->out);
	va_list ap;
	va_start(ap, fmt);
	vfprintf(c->out, fmt, ap);
	va_end(ap);
	fputc('\n', c->out);
}

/* -- hard links -------------------------------------------------------------------------------------------------- */

static void links_grow(struct link_table *t)
{
	struct link_table bigger = {.size = t->size ? t->size * 2 : 256};
	bigger.slots = calloc(bigger.size, sizeof *bigger.slots);
	if (!bigger.slots)
		abort();
	for (size_t i = 0; i < t->size; i++)
		if (t->slots[i].path) {
			size_t k = t->slots[i].ino % bigger.size;
			while (bigger.slots[k].path)
				k = (k + 1) % bigger.size;
			bigger.slots[k] = t->slots[i];
		}
	bigger.used = t->used;
	free(t->slots);
	*t = bigger;
}

/* The path under which this inode was first seen (this one, if now). */
static const char *links_first(struct link_table *t, ino_t ino, const char *path)
{
	if (t->used * 4 >= t->size * 3)
		links_grow(t);
	size_t i = ino % t->size;
	while (t->slots[i].path && t->slots[i].ino != ino)
		i = (i + 1) % t->size;
	if (!t->slots[i].path) {
		t->slots[i].ino = ino;
		t->slots[i].path = lab_format("%s", path);
		t->used++;
	}
	return t->slots[i].path;
}

static void links_free(struct link_table *t)
{
	for (size_t i = 0; i < t->size; i++)
		free(t->slots[i].path);
	free(t->slots);
}

/* -- one object -------------------------------------------------------------------------------------------------- */

static const char *type_name(mode_t mode)
{
	switch (mode & S_IFMT) {
	case S_IFREG:
		return "file";
	case S_IFDIR:
		return "directory";
	case S_IFLNK:
		return "symlink";
	case S_IFIFO:
		return "fifo";
	case S_IFSOCK:
		return "socket";
	default:
		return "device";
	}
}

static bool counted_xattr(const char *name)
{
	return strncmp(name, "trusted.", 8) != 0;
}

/* Names and values of the counted xattrs, sorted, as one text to compare and show: "user.a=6f6b ". The caller frees. */
static char *xattrs_text(const char *path)
{
	char names[65536], *sorted[1024];
	unsigned char value[65536];
	ssize_t len = llistxattr(path, names, sizeof names);
	if (len < 0)
		return lab_format("(cannot list: %s)", strerror(errno));
	size_t count = 0;
	for (char *p = names; p < names + len && count < 1024; p += strlen(p) + 1)
		if (counted_xattr(p))
			sorted[count++] = p;
	for (size_t i = 1; i < count; i++)
		for (size_t k = i; k > 0 && strcmp(sorted[k - 1], sorted[k]) > 0; k--) {
			char *swap = sorted[k];
			sorted[k] = sorted[k - 1];
			sorted[k - 1] = swap;
		}
	char *text = NULL;
	size_t text_len;
	FILE *f = open_memstream(&text, &text_len);
	for (size_t i = 0; f && i < count; i++) {
		ssize_t n = lgetxattr(path, sorted[i], value, sizeof value);
		fprintf(f, "%s=", sorted[i]);
		for (ssize_t k = 0; k < n; k++)
			fprintf(f, "%02x", value[k]);
		fputs(n < 0 ? "(unreadable) " : " ", f);
	}
	if (f)
		fclose(f);
	return text;
}

static void compare_xattrs(struct compare *c, const char *a, const char *b, const char *rel)
{
	_cleanup_free_ char *xa = xattrs_text(a), *xb = xattrs_text(b);
	if (strcmp(xa, xb) != 0)
		differ(c, rel, "xattrs %.200s | %.200s", xa, xb);
}

static void compare_target(struct compare *c, const char *a, const char *b, const char *rel)
{
	char ta[PATH_MAX] = "", tb[PATH_MAX] = "";
	if (readlink(a, ta, sizeof ta - 1) < 0 || readlink(b, tb, sizeof tb - 1) < 0)
		differ(c, rel, "cannot read the link: %s", strerror(errno));
	else if (strcmp(ta, tb) != 0)
		differ(c, rel, "points to %s | %s", ta, tb);
}

static ssize_t read_full(int fd, char *buf)
{
	size_t have = 0;
	while (have < COMPARE_BYTES) {
		ssize_t n = read(fd, buf + have, COMPARE_BYTES - have);
		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			return -errno;
		if (n == 0)
			break;
		have += (size_t)n;
	}
	return (ssize_t)have;
}

static void compare_content(struct compare *c, const char *a, const char *b, const char *rel)
{
	_cleanup_close_ int fa = open(a, O_RDONLY | O_CLOEXEC | O_NOFOLLOW), fb = open(b, O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
	if (fa < 0 || fb < 0) {
		differ(c, rel, "cannot read: %s", strerror(errno));
		return;
	}
	for (off_t offset = 0;;) {
		ssize_t na = read_full(fa, c->buf_a), nb = read_full(fb, c->buf_b);
		if (na < 0 || nb < 0) {
			differ(c, rel, "cannot read at %lld: %s", (long long)offset, strerror((int)-(na < 0 ? na : nb)));
			return;
		}
		ssize_t common = na < nb ? na : nb, equal = 0;
		while (equal < common && c->buf_a[equal] == c->buf_b[equal])
			equal++;
		if (equal < common || na != nb) {
			differ(c, rel, "content differs at byte %lld", (long long)(offset + equal));
			return;
		}
		if (na < (ssize_t)COMPARE_BYTES)
			return;
		offset += na;
	}
}

static void compare_stat(struct compare *c, const struct stat *a, const struct stat *b, const char *rel)
{
	if (a->st_mode != b->st_mode)
		differ(c, rel, "mode %o | %o", a->st_mode & 07777, b->st_mode & 07777);
	if (a->st_uid != b->st_uid || a->st_gid != b->st_gid)
		differ(c, rel, "owner %u:%u | %u:%u", a->st_uid, a->st_gid, b->st_uid, b->st_gid);
	if (a->st_mtim.tv_sec != b->st_mtim.tv_sec || a->st_mtim.tv_nsec != b->st_mtim.tv_nsec)
		differ(c, rel, "mtime %lld.%09ld | %lld.%09ld", (long long)a->st_mtim.tv_sec, a->st_mtim.tv_nsec, (long long)b->st_mtim.tv_sec,
			b->st_mtim.tv_nsec);
	if (!S_ISDIR(a->st_mode) && a->st_size != b->st_size)
		differ(c, rel, "size %lld | %lld", (long long)a->st_size, (long long)b->st_size);
	if ((S_ISCHR(a->st_mode) || S_ISBLK(a->st_mode)) && a->st_rdev != b->st_rdev)
		differ(c, rel, "device %u:%u | %u:%u", major(a->st_rdev), minor(a->st_rdev), major(b->st_rdev), minor(b->st_rdev));
	if (!S_ISDIR(a->st_mode) && a->st_nlink != b->st_nlink)
		differ(c, rel, "%lu names | %lu names", (unsigned long)a->st_nlink, (unsigned long)b->st_nlink);
}

/* -- the walk ---------------------------------------------------------------------------------------------------- */

struct names {
	char **list;
	size_t count;
};

static int by_bytes(const void *a, const void *b)
{
	return strcmp(*(char *const *)a, *(char *const *)b);
}

static int names_read(const char *path, bool top, struct names *ret, struct cdm_error *err)
{
	DIR *dir = opendir(path);
	if (!dir)
		return cdm_fail(err, errno, "read directory %s", path);
	size_t room = 0;
	errno = 0;
	for (struct dirent *entry; (entry = readdir(dir)); errno = 0) {
		if (strcmp(entry->d_name, ".") == 0 || strcmp(entry->d_name, "..") == 0 || (top && strcmp(entry->d_name, ".cdmfs") == 0))
			continue;
		if (ret->count == room) {
			room = room ? room * 2 : 64;
			ret->list = realloc(ret->list, room * sizeof *ret->list);
			if (!ret->list)
				abort();
		}
		ret->list[ret->count++] = lab_format("%s", entry->d_name);
	}
	int e = errno;
	closedir(dir);
	if (e)
		return cdm_fail(err, e, "read directory %s", path);
	if (ret->count)
		qsort(ret->list, ret->count, sizeof *ret->list, by_bytes);
	return 0;
}

static void names_free(struct names *n)
{
	for (size_t i = 0; i < n->count; i++)
		free(n->list[i]);
	free(n->list);
}

static int compare_object(struct compare *c, const char *a, const char *b, const char *rel, struct cdm_error *err);

static int compare_directory(struct compare *c, const char *a, const char *b, const char *rel, struct cdm_error *err)
{
	struct names na = {0}, nb = {0};
	size_t i = 0, k = 0;
	int r = names_read(a, !*rel, &na, err);
	if (r == 0)
		r = names_read(b, !*rel, &nb, err);
	while (r == 0 && (i < na.count || k < nb.count)) {
		int order = i == na.count ? 1 : k == nb.count ? -1 : strcmp(na.list[i], nb.list[k]);
		const char *name = order <= 0 ? na.list[i] : nb.list[k];
		_cleanup_free_ char *child = lab_format("%s%s%s", rel, *rel ? "/" : "", name);
		if (order == 0) {
			_cleanup_free_ char *ca = lab_format("%s/%s", a, name), *cb = lab_format("%s/%s", b, name);
			r = compare_object(c, ca, cb, child, err);
		} else {
			differ(c, child, order < 0 ? "only in the first" : "only in the second");
		}
		i += order <= 0;
		k += order >= 0;
	}
	names_free(&na);
	names_free(&nb);
	return r;
}

static int compare_object(struct compare *c, const char *a, const char *b, const char *rel, struct cdm_error *err)
{
	struct stat sa, sb;
	if (lstat(a, &sa) < 0 || lstat(b, &sb) < 0) {
		differ(c, rel, "cannot look: %s", strerror(errno));
		return 0;
	}
	if ((sa.st_mode & S_IFMT) != (sb.st_mode & S_IFMT)) {
		differ(c, rel, "%s | %s", type_name(sa.st_mode), type_name(sb.st_mode));
		return 0;
	}
	compare_stat(c, &sa, &sb, rel);
	compare_xattrs(c, a, b, rel);
	if (S_ISDIR(sa.st_mode))
		return compare_directory(c, a, b, rel, err);
	if (sa.st_nlink > 1 || sb.st_nlink > 1) {
		const char *fa = links_first(&c->links_a, sa.st_ino, rel), *fb = links_first(&c->links_b, sb.st_ino, rel);
		if (strcmp(fa, fb) != 0)
			differ(c, rel, "is the same file as %s | %s", fa, fb);
	}
	if (S_ISLNK(sa.st_mode))
		compare_target(c, a, b, rel);
	else if (S_ISREG(sa.st_mode) && sa.st_size == sb.st_size)
		compare_content(c, a, b, rel);
	return 0;
}

int lab_same_tree(const char *a, const char *b, FILE *out, struct cdm_error *err)
{
	struct compare c = {.out = out, .buf_a = malloc(COMPARE_BYTES), .buf_b = malloc(COMPARE_BYTES)};
	if (!c.buf_a || !c.buf_b)
		abort();
	int r = compare_object(&c, a, b, "", err);
	if (c.differences > DIFFERENCES_SHOWN && out)
		fprintf(out, "… and %u more differences\n", c.differences - DIFFERENCES_SHOWN);
	links_free(&c.links_a);
	links_free(&c.links_b);
	free(c.buf_a);
	free(c.buf_b);
	return r < 0 ? r : c.differences > 0;
}

/* -- directories of tests ---------------------------------------------------------------------------------------- */

/* The mountpoint of a holder that was killed is still protected against writes beside the mount. */
static void unprotect(int dir_fd)
{
	int flags;
	if (ioctl(dir_fd, FS_IOC_GETFLAGS, &flags) == 0 && flags & FS_IMMUTABLE_FL) {
		flags &= ~FS_IMMUTABLE_FL;
		ioctl(dir_fd, FS_IOC_SETFLAGS, &flags);
	}
}

static int remove_below(int dir_fd, dev_t device, const char *shown, struct cdm_error *err)
{
	int fd = dup(dir_fd);
	unprotect(dir_fd);
	DIR *dir = fd >= 0 ? fdopendir(fd) : NULL;
	if (!dir)
		return cdm_fail(err, errno, "read directory %s", shown);
	int r = 0;
	for (struct dirent *entry; r == 0 && (entry = readdir(dir));) {
		struct stat st;
		if (strcmp(entry->d_name, ".") == 0 || strcmp(entry->d_name, "..") == 0)
			continue;
		_cleanup_free_ char *child = lab_format("%s/%s", shown, entry->d_name);
		if (fstatat(dir_fd, entry->d_name, &st, AT_SYMLINK_NOFOLLOW) < 0)
			r = cdm_fail(err, errno, "look at %s", child);
		else if (S_ISDIR(st.st_mode) && st.st_dev != device)
			r = cdm_fail_plain(err, EXDEV, "%s is a mount: not removed", child);
		else if (S_ISDIR(st.st_mode)) {
			_cleanup_close_ int sub = openat(dir_fd, entry->d_name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
			r = sub < 0 ? cdm_fail(err, errno, "open %s", child) : remove_below(sub, device, child, err);
		}
		if (r == 0 && unlinkat(dir_fd, entry->d_name, S_ISDIR(st.st_mode) ? AT_REMOVEDIR : 0) < 0)
			r = cdm_fail(err, errno, "remove %s", child);
	}
	closedir(dir);
	return r;
}

int lab_remove_tree(const char *path, struct cdm_error *err)
{
	struct stat st;
	_cleanup_close_ int fd = open(path, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
	if (fd < 0 || fstat(fd, &st) < 0)
		return errno == ENOENT ? 0 : cdm_fail(err, errno, "open %s", path);
	int r = remove_below(fd, st.st_dev, path, err);
	if (r == 0 && rmdir(path) < 0)
		r = cdm_fail(err, errno, "remove %s", path);
	return r;
}

char *lab_scratch_dir(const char *name, struct cdm_error *err)
{
	const char *const places[] = {getenv("CDMFS_TEST_DIR"), "/var/tmp", "/tmp", "/dev/shm"};
	for (size_t i = 0; i < sizeof places / sizeof *places; i++) {
		if (!places[i] || !*places[i])
			continue;
		char *path = lab_format("%s/cdm-%s-XXXXXX", places[i], name);
		if (mkdtemp(path) && lab_check_filesystem(path, err) == 0)
			return path;
		rmdir(path);
		free(path);
	}
	return NULL;
}
