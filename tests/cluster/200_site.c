/* SPDX-License-Identifier: Apache-2.0 */
/* A documentation web site, as its owner would try it: copied into one mount, replaced by its next edition in two ways, renamed, removed,
 * while nginx serves it from every mount, readers look at whole files, programs are killed and links are cut. Nobody gets an error or
 * a mix of editions, and all nodes are equal at the end.
 *
 * By default a site of 1,600 generated pages. CDM_SITE_PACKAGE=openjdk-17-doc: the files of that Debian package (apt-get download). */
#include "tests/cluster/story.h"

#include <errno.h>
#include <fcntl.h>
#include <ftw.h>
#include <netinet/in.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#define NODES 3
#define PAGE_MAX (64u << 20)
#define HELD_OPEN 16

static char *site[2]; /* the editions, outside of the mounts */
static char **pages;  /* paths of regular files, relative to an edition */
static size_t page_count;
static unsigned first_port;

/* -- outside of the nodes ------------------------------------------------------------------------------------------ */

/* A command outside of the nodes' networks; `lab down` knows it by its environment. */
static pid_t in_background(const char *command)
{
	fflush(NULL);
	pid_t pid = fork();
	if (pid == 0) {
		setenv("CDMFS_LAB", lab_dir(lab), 1);
		execl("/bin/bash", "bash", "-c", command, NULL);
		_exit(127);
	}
	assert_true(pid > 0);
	return pid;
}

static void outside(const char *command, const char *what)
{
	int status = 0;
	pid_t pid = in_background(command);
	if (waitpid(pid, &status, 0) != pid || status != 0)
		fail_msg("%s ended with status %#x", what, status);
}

/* -- the site ---------------------------------------------------------------------------------------------------- */

#define GENERATED \
	"mkdir -p %s && cd %s && for d in $(seq 40); do mkdir -p chapter-$d; for p in $(seq 40); do { echo '<html><title>Page '$d.$p'</title>'; " \
	"for l in $(seq $((p * 5))); do echo \"<p>Chapter $d, page $p, line $l. All of it belongs to one edition.</p>\"; done; echo '</html>'; } > chapter-$d/page-$p.html; done; " \
	"ln -s page-1.html chapter-$d/index.html; done; head -c 3000000 /dev/urandom > archive.bin; ln chapter-1/page-2.html start.html"
#define FROM_PACKAGE \
	"mkdir -p %s.deb && cd %s.deb && apt-get -qq download \"$CDM_SITE_PACKAGE\" && dpkg-deb -x *.deb . && mv usr/share/doc %s"

static int note_page(const char *path, const struct stat *st, int type, struct FTW *ftw)
{
	if (type != FTW_F || st->st_size < 2)
		return 0;
	if ((page_count & (page_count + 1)) == 0)
		pages = realloc(pages, (2 * page_count + 2) * sizeof *pages);
	assert_non_null(pages);
	pages[page_count++] = strdup(path + strlen(site[0]) + 1);
	return 0;
}

static void make_editions(void)
{
	for (int i = 0; i < 2; i++)
		assert_true(asprintf(&site[i], "%s/edition-%d", lab_dir(lab), i + 1) >= 0);
	_cleanup_free_ char *command = NULL;
	bool package = getenv("CDM_SITE_PACKAGE") != NULL;
	assert_true((package ? asprintf(&command, FROM_PACKAGE, site[0], site[0], site[0]) : asprintf(&command, GENERATED, site[0], site[0])) >= 0);
	outside(command, package ? "apt-get download" : "making pages");
	/* One line of nearly every page is another in the second edition, and so is its time. */
	shell("n1", "cp -a %s %s && cd %s && find . -type f -links 1 -size +0 | sort | awk 'NR %% 10' | tr '\\n' '\\0' | xargs -0 sed -i '2s/$/ second edition/'", site[0],
		site[1], site[1]);
	assert_int_equal(nftw(site[0], note_page, 50, FTW_PHYS), 0);
	print_message("%zu pages\n", page_count);
}

/* -- readers ----------------------------------------------------------------------------------------------------- */

struct content {
	char *bytes;
	size_t len;
};

static bool read_rest(int fd, struct content *c, size_t until)
{
	while (c->len < until) {
		ssize_t n = read(fd, c->bytes + c->len, until - c->len);
		if (n <= 0)
			return n == 0;
		c->len += (size_t)n;
	}
	return true;
}

/* Is it all of the page in one of the editions? */
static bool is_an_edition(const char *page, const struct content *c)
{
	for (int i = 0; i < 2; i++) {
		_cleanup_free_ char *path = NULL;
		struct stat st;
		if (asprintf(&path, "%s/%s", site[i], page) < 0)
			return false;
		_cleanup_close_ int fd = open(path, O_RDONLY | O_CLOEXEC);
		if (fd < 0 || fstat(fd, &st) < 0 || (size_t)st.st_size != c->len)
			continue;
		struct content known = {.bytes = malloc(c->len + 1)};
		bool same = known.bytes && read_rest(fd, &known, c->len) && known.len == c->len && memcmp(known.bytes, c->bytes, c->len) == 0;
		free(known.bytes);
		if (same)
			return true;
	}
	return false;
}

struct visitor {
	pthread_t thread;
	_Atomic bool stop;
	const char *node;
	unsigned port, seed; /* port 0: looks at files */
	unsigned looks;
	int socket;
	char failure[5000];
};

static void complain(struct visitor *v, const char *page, const char *what)
{
	if (!*v->failure)
		snprintf(v->failure, sizeof v->failure, "%s:%s: %s", v->node, page, what);
}

/* Opened and half read, it is finished after many others were opened. */
struct held {
	int fd;
	const char *page;
	struct content content;
	size_t room;
};

static void finish_held(struct visitor *v, struct held *h)
{
	if (h->fd < 0)
		return;
	if (!read_rest(h->fd, &h->content, h->room))
		complain(v, h->page, strerror(errno));
	else if (!is_an_edition(h->page, &h->content))
		complain(v, h->page, "a mix of editions in one open file");
	else
		v->looks++;
	close(h->fd);
	free(h->content.bytes);
	h->fd = -1;
}

static void hold(struct visitor *v, struct held *h, const char *page)
{
	_cleanup_free_ char *rel = NULL;
	struct stat st;
	if (asprintf(&rel, "site/%s", page) < 0)
		return;
	_cleanup_free_ char *path = lab_path(lab, v->node, rel);
	h->page = page;
	h->fd = open(path, O_RDONLY | O_CLOEXEC);
	if (h->fd < 0 || fstat(h->fd, &st) < 0) {
		complain(v, page, strerror(errno));
		return;
	}
	h->room = (size_t)st.st_size + 65536; /* more may come of a wrong one */
	h->content = (struct content){.bytes = malloc(h->room)};
	if (!h->content.bytes || !read_rest(h->fd, &h->content, (size_t)st.st_size / 2))
		complain(v, page, strerror(errno));
}

static const char *any_page(struct visitor *v)
{
	return pages[(size_t)rand_r(&v->seed) % page_count];
}

static void *file_visitor(void *arg)
{
	struct visitor *v = arg;
	struct held held[HELD_OPEN];
	for (int i = 0; i < HELD_OPEN; i++)
		held[i].fd = -1;
	for (unsigned i = 0; !v->stop && !*v->failure; i = (i + 1) % HELD_OPEN) {
		finish_held(v, &held[i]);
		hold(v, &held[i], any_page(v));
	}
	for (int i = 0; i < HELD_OPEN; i++)
		finish_held(v, &held[i]);
	return NULL;
}

static int connect_to(unsigned port)
{
	struct sockaddr_in addr = {.sin_family = AF_INET, .sin_port = htons((uint16_t)port), .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
	int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
	if (fd >= 0 && connect(fd, (struct sockaddr *)&addr, sizeof addr) < 0) {
		close(fd);
		return -1;
	}
	return fd;
}

/* One request on a connection of its own. False: no answer. *ret_head and content->bytes are in `buf`. */
static bool http(unsigned port, const char *method, const char *page, char *buf, char **ret_head, struct content *ret)
{
	_cleanup_close_ int fd = connect_to(port);
	_cleanup_free_ char *request = NULL;
	struct content all = {.bytes = buf};
	int len = asprintf(&request, "%s /site/%s HTTP/1.0\r\n\r\n", method, page);
	if (fd < 0 || len < 0 || send(fd, request, (size_t)len, MSG_NOSIGNAL) != len || !read_rest(fd, &all, PAGE_MAX - 1))
		return false;
	buf[all.len] = 0;
	char *body = strstr(buf, "\r\n\r\n");
	if (!body)
		return false;
	*body = 0;
	*ret_head = buf;
	*ret = (struct content){.bytes = body + 4, .len = all.len - (size_t)(body + 4 - buf)};
	return true;
}

static bool plain_name(const char *page)
{
	return strspn(page, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_./") == strlen(page);
}

static void *web_visitor(void *arg)
{
	struct visitor *v = arg;
	char *buf = malloc(PAGE_MAX), *head = NULL;
	while (buf && !v->stop && !*v->failure) {
		const char *page = any_page(v);
		struct content c;
		if (!plain_name(page))
			continue;
		if (!http(v->port, "GET", page, buf, &head, &c))
			complain(v, page, "no answer by HTTP");
		else if (strncmp(head, "HTTP/1.1 200", 12) != 0)
			complain(v, page, head);
		else if (!is_an_edition(page, &c))
			complain(v, page, "a mix of editions by HTTP");
		else
			v->looks++;
	}
	free(buf);
	return NULL;
}

static struct visitor *visitors[2 * NODES];
static unsigned visitor_count;

static void visitor_begin(const char *node, unsigned port, unsigned seed)
{
	struct visitor *v = calloc(1, sizeof *v);
	assert_non_null(v);
	v->node = node;
	v->port = port;
	v->seed = seed;
	assert_int_equal(pthread_create(&v->thread, NULL, port ? web_visitor : file_visitor, v), 0);
	visitors[visitor_count++] = v;
}

/* Good looks of all together. */
static unsigned visitors_end(void)
{
	unsigned looks = 0;
	while (visitor_count > 0) {
		struct visitor *v = visitors[--visitor_count];
		v->stop = true;
		pthread_join(v->thread, NULL);
		looks += v->looks;
		char failure[sizeof v->failure];
		memcpy(failure, v->failure, sizeof failure);
		free(v);
		if (*failure)
			fail_msg("after %u good looks: %s", looks, failure);
	}
	return looks;
}

/* -- the web server ---------------------------------------------------------------------------------------------- */

static void start_nginx(void)
{
	_cleanup_free_ char *servers = strdup("");
	first_port = 20000 + (unsigned)getpid() % 10000;
	for (unsigned i = 0; i < NODES; i++) {
		char *more = NULL;
		assert_true(asprintf(&more, "%s server { listen 127.0.0.1:%u; root %s; }", servers, first_port + i, lab_mount(lab, lab_node_name(lab, i))) >= 0);
		free(servers);
		servers = more;
	}
	_cleanup_free_ char *command = NULL;
	assert_true(asprintf(&command, "cd %s && mkdir -p web && echo 'user root; worker_processes 1; pid web/pid; error_log web/error.log; events {} http { sendfile on; "
		"access_log off; client_body_temp_path web/b; proxy_temp_path web/p; fastcgi_temp_path web/f; uwsgi_temp_path web/u; scgi_temp_path web/s; %s }' > "
		"web/nginx.conf && exec nginx -p $PWD -c web/nginx.conf", lab_dir(lab), servers) >= 0);
	outside(command, "nginx");
}

static int stop_nginx(void **state)
{
	for (unsigned i = 0; i < visitor_count; i++) { /* of a story that failed */
		visitors[i]->stop = true;
		pthread_join(visitors[i]->thread, NULL);
		free(visitors[i]);
	}
	visitor_count = 0;
	shell("n1", "[ ! -s %s/web/pid ] || kill $(cat %s/web/pid)", lab_dir(lab), lab_dir(lab));
	for (int i = 0; i < 2; i++)
		free(site[i]);
	for (size_t i = 0; i < page_count; i++)
		free(pages[i]);
	free(pages);
	return 0;
}

/* What a browser compares: the same from every server, for every page. */
static void same_headers_everywhere(void)
{
	char *buf = malloc(PAGE_MAX), *head = NULL;
	assert_non_null(buf);
	for (size_t p = 0; p < page_count; p++) {
		char first[200] = "";
		for (unsigned i = 0; i < NODES && plain_name(pages[p]); i++) {
			struct content c;
			assert_true(http(first_port + i, "HEAD", pages[p], buf, &head, &c));
			char *tag = strstr(head, "ETag: "), *modified = strstr(head, "Last-Modified: "), both[200] = "";
			if (tag && modified)
				snprintf(both, sizeof both, "%.*s %.*s", (int)strcspn(tag, "\r"), tag, (int)strcspn(modified, "\r"), modified);
			if (!*both || (i > 0 && strcmp(first, both) != 0))
				fail_msg("%s: n1 says %s, %s says %s", pages[p], first, lab_node_name(lab, i), *both ? both : head);
			strcpy(first, both);
		}
	}
	free(buf);
}

/* -- trouble meanwhile ------------------------------------------------------------------------------------------- */

static void kill_something(unsigned *seed)
{
	static const enum lab_program programs[] = {LAB_SERVER, LAB_REPLICATOR, LAB_WATCHER, LAB_SERVER, LAB_REPLICATOR};
	const char *node = lab_node_name(lab, (unsigned)rand_r(seed) % NODES);
	enum lab_program program = programs[(unsigned)rand_r(seed) % 5];
	killed(node, program);
	started(node, program);
}

/* Kill and cut until the command is done. */
static void trouble_until_done(const char *command, const char *what, unsigned *seed)
{
	pid_t pid = in_background(command);
	int status;
	unsigned troubles = 0;
	while (waitpid(pid, &status, WNOHANG) == 0) {
		const char *node = lab_node_name(lab, (unsigned)rand_r(seed) % NODES);
		cut(node);
		kill_something(seed);
		healed(node);
		kill_something(seed);
		troubles++;
	}
	if (!WIFEXITED(status) || WEXITSTATUS(status) != 0)
		fail_msg("%s ended with status %#x", what, status);
	print_message("%s: %u times trouble\n", what, troubles);
}

/* -- the story --------------------------------------------------------------------------------------------------- */

static void edition_comes(const char *what, const char *options, int edition, unsigned *seed)
{
	_cleanup_free_ char *command = NULL;
	assert_true(asprintf(&command, "rsync -a --delete %s %s/ %s/site/", options, site[edition], lab_mount(lab, "n1")) >= 0);
	for (unsigned i = 1; i < NODES; i++) { /* at the author's own mount it is as the author's program writes it */
		visitor_begin(lab_node_name(lab, i), 0, *seed + i);
		visitor_begin(lab_node_name(lab, i), first_port + i, *seed + 100 + i);
	}
	trouble_until_done(command, what, seed);
	in_sync();
	print_message("%s: %u good looks\n", what, visitors_end());
	same_everywhere();
	shell("n3", "diff -r --no-dereference %s site", site[edition]);
	same_headers_everywhere();
}

static void a_site_is_copied_replaced_renamed_and_removed(void **state)
{
	const char *seed_text = getenv("CDM_SITE_SEED");
	unsigned seed = seed_text ? (unsigned)atoi(seed_text) : (unsigned)getpid();
	print_message("CDM_SITE_SEED=%u\n", seed);
	make_editions();
	shell("n1", "cp -a %s site", site[0]);
	assert_int_equal(stat_wait("n1", "--timeout 120", NULL), 0);
	same_everywhere();
	start_nginx();
	same_headers_everywhere();
	edition_comes("the next edition", "", 1, &seed);
	edition_comes("the first one again, in place", "--inplace", 0, &seed);
	_cleanup_free_ char *rename_it = NULL, *remove_it = NULL;
	assert_true(asprintf(&rename_it, "cd %s && mv site moved", lab_mount(lab, "n1")) >= 0);
	trouble_until_done(rename_it, "rename", &seed);
	everywhere_equal();
	absent("n2", "site");
	shell("n3", "diff -r --no-dereference %s moved", site[0]);
	assert_true(asprintf(&remove_it, "cd %s && rm -r moved", lab_mount(lab, "n1")) >= 0);
	trouble_until_done(remove_it, "removal", &seed);
	everywhere_equal();
	absent("n3", "moved");
}

int main(void)
{
	if (access("/usr/sbin/nginx", X_OK) < 0 || access("/usr/bin/rsync", X_OK) < 0) {
		fprintf(stderr, "skipped: nginx or rsync is not installed\n");
		return 77;
	}
	const struct CMUnitTest stories[] = {
		cmocka_unit_test_teardown(a_site_is_copied_replaced_renamed_and_removed, stop_nginx),
	};
	return STORIES("site", ((struct lab_options){.nodes = NODES, .netns = true}), stories);
}
