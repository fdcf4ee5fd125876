/* SPDX-License-Identifier: Apache-2.0 */
/* cdm-master: reads its options, builds the parts, runs the loop. */
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <ini.h>
#include <netdb.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>
#ifdef HAVE_LIBSYSTEMD
#include <systemd/sd-daemon.h>
#endif
#include "common/io.h"
#include "common/log.h"
#include "common/text.h"
#include "master/http.h"
#include "master/live.h"
#include "master/policy.h"

#define HOSTS_MAX 32
#define LIFE_MIN_S 10
#define LIFE_MAX_S (5 * 366 * 86400)
#define LIFE_RANGE "10s to 1830d, for example 90d"

int64_t master_now_ms(void)
{
	struct timespec t;
	clock_gettime(CLOCK_MONOTONIC, &t);
	return (int64_t)t.tv_sec * 1000 + t.tv_nsec / 1000000;
}

void master_format_time(int64_t unix_seconds, char out[32])
{
	time_t t = unix_seconds;
	struct tm tm;
	gmtime_r(&t, &tm);
	strftime(out, 32, "%Y-%m-%dT%H:%M:%SZ", &tm);
}

static void format_address(const char *host, uint16_t port, char *out)
{
	snprintf(out, 290, strchr(host, ':') ? "[%s]:%u" : "%s:%u", host, port);
}

void master_agents_address(const struct master *m, char out[300])
{
	format_address(m->advertise, m->agents_port, out);
}

void master_api_url(const struct master *m, char out[300])
{
	memcpy(out, "https://", 8);
	format_address(m->advertise, m->api_port, out + 8);
}

/* --- listening -------------------------------------------------------------------------------------------------- */

/* "host:port", "[v6]:port" → parts. */
static int split_host_port(const char *text, char host[256], const char **port)
{
	const char *colon = strrchr(text, ':');
	size_t len = colon ? (size_t)(colon - text) : 0;
	if (!colon || len == 0 || len >= 256 || !colon[1] || strspn(colon + 1, "0123456789") != strlen(colon + 1))
		return -EINVAL;
	if (text[0] == '[' && text[len - 1] == ']')
		text++, len -= 2;
	memcpy(host, text, len);
	host[len] = 0;
	*port = colon + 1;
	return 0;
}

static int bind_one(const struct addrinfo *ai, const char *text, uint16_t *ret_port, struct cdm_error *err)
{
	struct sockaddr_storage bound;
	socklen_t len = sizeof bound;
	_cleanup_close_ int fd = socket(ai->ai_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	if (fd < 0)
		return cdm_fail(err, errno, "socket for %s", text);
	setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &(int){1}, sizeof(int));
	if (bind(fd, ai->ai_addr, ai->ai_addrlen) < 0 || listen(fd, 512) < 0) {
		int errnum = errno;
		cdm_fail(err, errnum, "listen on %s", text);
		cdm_hint(err, errnum == EADDRINUSE ? "another program has this port (ss -ltnp shows it); end it or choose another with --listen-api, --listen-agents"
			: errnum == EACCES ? "ports below 1024 need privileges; choose a higher one" : "is this one of this host's addresses? 0.0.0.0 means all");
		return -errnum;
	}
	if (getsockname(fd, (struct sockaddr *)&bound, &len) < 0)
		return cdm_fail(err, errno, "address of %s", text);
	*ret_port = ntohs(bound.ss_family == AF_INET6 ? ((struct sockaddr_in6 *)&bound)->sin6_port : ((struct sockaddr_in *)&bound)->sin_port);
	return cdm_take_fd(&fd);
}

int master_listen(const char *text, uint16_t *ret_port, struct cdm_error *err)
{
	char host[256];
	const char *port;
	struct addrinfo hints = {.ai_family = AF_UNSPEC, .ai_socktype = SOCK_STREAM, .ai_flags = AI_PASSIVE | AI_NUMERICSERV}, *list = NULL;
	if (split_host_port(text, host, &port) < 0) {
		cdm_fail_plain(err, EINVAL, "\"%s\" is not HOST:PORT", text);
		cdm_hint(err, "for example 0.0.0.0:7443 or [::]:7443");
		return -EINVAL;
	}
	int r = getaddrinfo(host, port, &hints, &list);
	if (r != 0)
		return cdm_fail_plain(err, EINVAL, "listen on %s: %s", text, gai_strerror(r));
	r = bind_one(list, text, ret_port, err);
	freeaddrinfo(list);
	return r;
}

/* --- options ---------------------------------------------------------------------------------------------------- */

static void replace(char **where, const char *value)
{
	free(*where);
	*where = strdup(value);
}

static bool take_life(struct master_conf *c, const char *value)
{
	c->certificate_life_s = cdm_text_to_seconds(value);
	return c->certificate_life_s >= LIFE_MIN_S && c->certificate_life_s <= LIFE_MAX_S;
}

static int on_setting(void *arg, const char *section, const char *name, const char *value)
{
	struct master_conf *c = arg;
	if (strcmp(section, "master") != 0)
		return 0;
	if (strcmp(name, "dir") == 0)
		replace(&c->dir, value);
	else if (strcmp(name, "listen_api") == 0)
		replace(&c->listen_api, value);
	else if (strcmp(name, "listen_agents") == 0)
		replace(&c->listen_agents, value);
	else if (strcmp(name, "advertise") == 0)
		replace(&c->advertise, value);
	else if (strcmp(name, "certificate_life") == 0)
		return take_life(c, value);
	else
		return 0;
	return 1;
}

static int read_config(const char *path, struct master_conf *c, struct cdm_error *err)
{
	int line = ini_parse(path, on_setting, c);
	if (line == 0)
		return 0;
	if (line < 0)
		return cdm_fail(err, errno ? errno : ENOENT, "read %s", path);
	cdm_fail_plain(err, EINVAL, "%s line %d: unknown setting, or a value that cannot be used", path, line);
	cdm_hint(err, "[master] knows dir, listen_api, listen_agents, advertise, certificate_life (" LIFE_RANGE ")");
	return -EINVAL;
}

static void usage(FILE *to)
{
	fputs("usage: cdm-master --dir DIR | --config FILE\n"
	      "  --dir DIR                  CA, database, first admin token (made at first start)\n"
	      "  --listen-api HOST:PORT     HTTP API, default 0.0.0.0:7443; port 0: chosen by the kernel, see DIR/endpoints.json\n"
	      "  --listen-agents HOST:PORT  nodes, default 0.0.0.0:7440\n"
	      "  --advertise HOST[,HOST…]   names and addresses we are reached by; nodes are told the first\n"
	      "  --certificate-life TIME    how long the nodes' certificates hold, default 90d; nodes renew them after two thirds\n"
	      "  --config FILE              [master] dir, listen_api, listen_agents, advertise, certificate_life\n"
	      "  --version --help\n", to);
}

/* 0 go on, 1 done, 2 usage. */
static int read_options(int argc, char **argv, struct master_conf *c, struct cdm_error *err)
{
	static const struct option options[] = {{"dir", 1, 0, 'd'}, {"config", 1, 0, 'c'}, {"listen-api", 1, 0, 'p'}, {"listen-agents", 1, 0, 'g'},
		{"advertise", 1, 0, 'a'}, {"certificate-life", 1, 0, 'l'}, {"version", 0, 0, 'V'}, {"help", 0, 0, 'h'}, {0}};
	int o;
	replace(&c->listen_api, "0.0.0.0:7443");
	replace(&c->listen_agents, "0.0.0.0:7440");
	c->certificate_life_s = CA_NODE_LIFE_S;
	for (int pass = 0; pass < 2; pass++) { /* the file first, so that options win */
		optind = 1;
		while ((o = getopt_long(argc, argv, "", options, NULL)) != -1) {
			if (o == 'h' || o == 'V') {
				if (o == 'h')
					usage(stdout);
				else
					puts("cdm-master " CDM_VERSION);
				return 1;
			}
			if (o == '?' || (o == 'c' && pass == 0 && read_config(optarg, c, err) < 0))
				return 2;
			if (o == 'l' && !take_life(c, optarg)) {
				cdm_fail_plain(err, EINVAL, "--certificate-life %s: " LIFE_RANGE, optarg);
				return 2;
			}
			if (pass == 1 && o != 'c' && o != 'l')
				replace(o == 'd' ? &c->dir : o == 'p' ? &c->listen_api : o == 'g' ? &c->listen_agents : &c->advertise, optarg);
		}
	}
	if (optind < argc || !c->dir) {
		cdm_fail_plain(err, EINVAL, optind < argc ? "unexpected argument %s" : "--dir or --config is missing", argv[optind]);
		return 2;
	}
	return 0;
}

/* --- starting --------------------------------------------------------------------------------------------------- */

static int open_dir(const char *dir, int *ret_lock, struct cdm_error *err)
{
	int r = cdm_make_dirs(dir, 0700, err);
	_cleanup_close_ int fd = r < 0 ? -1 : open(dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (fd < 0 || faccessat(fd, ".", W_OK | X_OK, AT_EACCESS) < 0) {
		r = r < 0 ? r : cdm_fail(err, errno, "directory %s", dir);
		cdm_hint(err, "the master must be able to write there; check owner and permissions, or choose another with --dir");
		return r;
	}
	*ret_lock = openat(fd, "lock", O_RDWR | O_CREAT | O_CLOEXEC, 0600);
	if (*ret_lock < 0)
		return cdm_fail(err, errno, "create %s/lock", dir);
	if (flock(*ret_lock, LOCK_EX | LOCK_NB) < 0) {
		cdm_fail_plain(err, EBUSY, "another cdm-master uses %s", dir);
		cdm_hint(err, "end it first, or choose another directory with --dir");
		return -EBUSY;
	}
	return cdm_take_fd(&fd);
}

/* All names for the certificate; list ends with NULL; text holds the words. */
static void collect_hosts(struct master *m, char **text, const char *hosts[HOSTS_MAX + 1])
{
	const struct master_conf *c = m->conf;
	char name[256] = "localhost", host[256];
	const char *port;
	size_t n = 0;
	gethostname(name, sizeof name - 1);
	bool any = split_host_port(c->listen_agents, host, &port) < 0 || strcmp(host, "0.0.0.0") == 0 || strcmp(host, "::") == 0;
	if (asprintf(text, "%s,%s", c->advertise ? c->advertise : any ? name : host, name) < 0)
		abort();
	for (char *save, *word = strtok_r(*text, ", ", &save); word && n < HOSTS_MAX; word = strtok_r(NULL, ", ", &save))
		hosts[n++] = word;
	hosts[n] = NULL;
	m->advertise = strdup(hosts[0]);
}

static void on_model(void *arg)
{
	struct master *m = arg;
	if (m->policy)
		policy_model_changed(m->policy);
	if (m->agents)
		agents_check(m->agents);
}

struct account { /* being recorded */
	int error;
	bool done;
};

static void on_account(void *arg, int error, const json_t *result, const struct cdm_error *err)
{
	struct account *a = arg;
	if (error < 0)
		cdm_log_err(failed, err);
	a->error = error;
	a->done = true;
}

/* The first account: its token is only in the file, the registry keeps the hash. It is good before anybody can use it. */
static int make_admin(struct master *m, int dirfd, struct cdm_error *err)
{
	char token[66], hash[TOKEN_HASH_TEXT];
	if (registry_model(m->registry)->admin_hash)
		return 0;
	int r = token_make_bearer(token, err);
	if (r < 0)
		return r;
	token_hash(token, hash);
	strcat(token, "\n");
	r = cdm_replace_file(dirfd, "admin.token", token, strlen(token), 0600, err);
	if (r < 0)
		return r;
	struct account account = {0};
	registry_submit(m->registry, REG_ACCOUNT_SET, json_pack("{s:s, s:s}", "name", "admin", "hash", hash), NULL, false, on_account, &account);
	while (!account.done && event_base_loop(m->base, EVLOOP_ONCE) == 0)
		;
	return account.done && account.error == 0 ? 0 : cdm_fail_plain(err, EIO, "the first account could not be recorded");
}

static int write_endpoints(const struct master *m, int dirfd, struct cdm_error *err)
{
	char agents[300], api[300];
	master_agents_address(m, agents);
	master_api_url(m, api);
	json_t *j = json_pack("{s:i, s:s, s:s}", "pid", (int)getpid(), "api", api, "agents", agents);
	_cleanup_free_ char *text = json_dumps(j, JSON_COMPACT);
	json_decref(j);
	return text ? cdm_replace_file(dirfd, "endpoints.json", text, strlen(text), 0644, err) : cdm_fail(err, ENOMEM, "endpoints.json");
}

static int start(struct master *m, int dirfd, struct cdm_error *err)
{
	const char *hosts[HOSTS_MAX + 1];
	char *text;
	collect_hosts(m, &text, hosts);
	int r = ca_open(dirfd, m->conf->dir, hosts, &m->ca, err);
	free(text);
	if (r == 0)
		r = registry_open(m->conf->dir, m->base, on_model, m, &m->registry, err);
	if (r < 0)
		return r;
	m->news = news_new(m);
	m->live = live_new(m);
	m->policy = policy_new(m);
	if (!m->news || !m->live || !m->policy)
		return cdm_fail(err, ENOMEM, "start");
	r = make_admin(m, dirfd, err);
	if (r == 0)
		r = agents_start(m, &m->agents, err);
	if (r == 0)
		r = http_start(m, &m->http, err);
	if (r == 0)
		r = write_endpoints(m, dirfd, err);
	policy_poke(m->policy);
	return r;
}

static void stop(struct master *m)
{
	m->stopping = true;
	adopt_stop(m);
	http_stop(&m->http);
	registry_close(&m->registry); /* answers what is under way */
	agents_stop(&m->agents);
	policy_free(&m->policy);
	live_free(&m->live);
	news_free(&m->news);
	ca_free(&m->ca);
	free(m->advertise);
}

static void on_signal(evutil_socket_t sig, short what, void *arg)
{
	struct master *m = arg;
	cdm_log(stop, cdm_str("program", "cdm-master"), cdm_str("reason", strsignal(sig)));
	m->stopping = true;
	event_base_loopbreak(m->base);
}

static void notify(const char *state)
{
#ifdef HAVE_LIBSYSTEMD
	sd_notify(0, state);
#else
	(void)state;
#endif
}

static int run(struct master *m, struct cdm_error *err)
{
	int lock = -1;
	_cleanup_close_ int dirfd = open_dir(m->conf->dir, &lock, err);
	struct event *term = NULL, *intr = NULL;
	if (dirfd < 0)
		return dirfd;
	m->base = event_base_new();
	if (!m->base)
		return cdm_fail(err, ENOMEM, "event loop");
	int r = start(m, dirfd, err);
	if (r == 0) {
		term = evsignal_new(m->base, SIGTERM, on_signal, m);
		intr = evsignal_new(m->base, SIGINT, on_signal, m);
		evsignal_add(term, NULL);
		evsignal_add(intr, NULL);
		char agents[300], api[300];
		master_agents_address(m, agents);
		master_api_url(m, api);
		cdm_log(master_ready, cdm_str("api", api), cdm_str("agents", agents), cdm_str("dir", m->conf->dir), cdm_str("version", CDM_VERSION));
		notify("READY=1");
		event_base_dispatch(m->base);
		notify("STOPPING=1");
		event_free(term);
		event_free(intr);
		unlinkat(dirfd, "endpoints.json", 0);
	}
	stop(m);
	event_base_free(m->base);
	if (lock >= 0)
		close(lock);
	return r;
}

int main(int argc, char **argv)
{
	struct master_conf conf = {0};
	struct master m = {.conf = &conf};
	struct cdm_error err = CDM_ERROR_INIT;
	signal(SIGPIPE, SIG_IGN);
	json_object_seed(0); /* before there are threads */
	int code = read_options(argc, argv, &conf, &err);
	if (code == 2) {
		if (err.number)
			cdm_error_print("cdm-master", &err);
		usage(stderr);
	} else if (code == 1) {
		code = 0;
	} else if (run(&m, &err) < 0) {
		cdm_log_err(failed, &err);
		code = 1;
	}
	free(conf.dir);
	free(conf.listen_api);
	free(conf.listen_agents);
	free(conf.advertise);
	return code;
}
