/* SPDX-License-Identifier: Apache-2.0 */
/* lab-wire NETNS_A IF_A NETNS_B IF_B DELAY_US — a wire with a delay between two network namespaces: makes a TAP device in
 * each and carries every frame to the other side, DELAY_US after it was sent. One thread per direction; frames wait in a ring of
 * WIRE_BYTES, what does not fit is dropped as a full router does. Says READY=1 when both devices are there; ends by a signal.
 *
 * A bad wire: LAB_WIRE_FAULTS="drop=100 double=100 swap=50 spoil=2000" in the environment does that to one frame of so many, at random. What is
 * spoiled is one byte of a TCP segment's content, with the checksum corrected, so that it arrives. after=40: the first 40 frames of each
 * direction pass unharmed, for joining, which a person does by hand and repeats if it fails. */
#include <errno.h>
#include <fcntl.h>
#include <linux/if_tun.h>
#include <net/if.h>
#include <poll.h>
#include <pthread.h>
#include <sched.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

#define WIRE_BYTES (64u << 20)
#define FRAME_MAX 2048u

struct frame {
	int64_t due_ns;
	uint32_t len;
	uint8_t bytes[FRAME_MAX];
};
#define WIRE_FRAMES (WIRE_BYTES / sizeof(struct frame))

struct faults { /* one frame of so many; 0 = none */
	unsigned drop, twice, swap, spoil;
	unsigned after; /* frames that pass first */
};
static struct faults faults;

struct direction {
	int in, out;
	int64_t delay_ns;
	struct frame *ring;
	size_t head, tail; /* frames taken in, sent out; both only grow */
	unsigned seed;
};

static void die(const char *what)
{
	fprintf(stderr, "lab-wire: %s: %s\n", what, strerror(errno));
	exit(1);
}

static int64_t now_ns(void)
{
	struct timespec t;
	clock_gettime(CLOCK_MONOTONIC, &t);
	return t.tv_sec * 1000000000LL + t.tv_nsec;
}

static int open_tap(const char *netns, const char *device)
{
	char path[300];
	snprintf(path, sizeof path, "/run/netns/%s", netns);
	int ns = open(path, O_RDONLY | O_CLOEXEC);
	if (ns < 0 || setns(ns, CLONE_NEWNET) < 0)
		die(path);
	close(ns);
	int fd = open("/dev/net/tun", O_RDWR | O_NONBLOCK | O_CLOEXEC);
	if (fd < 0)
		die("/dev/net/tun");
	struct ifreq request = {.ifr_flags = IFF_TAP | IFF_NO_PI};
	snprintf(request.ifr_name, sizeof request.ifr_name, "%s", device);
	if (ioctl(fd, TUNSETIFF, &request) < 0)
		die(device);
	return fd;
}

/* --- a bad wire --- */

static unsigned fault_of(const char *spec, const char *name)
{
	const char *at = spec ? strstr(spec, name) : NULL;
	return at ? (unsigned)strtoul(at + strlen(name), NULL, 10) : 0;
}

static bool meets(struct direction *d, unsigned one_of)
{
	return one_of && (unsigned)rand_r(&d->seed) % one_of == 0;
}

/* Ethernet, IPv4, TCP with content; else it stays as it is. The checksum is a sum of 16-bit words: it gets the difference. */
static void spoil(struct direction *d, struct frame *f)
{
	const size_t ip = 14, tcp = ip + (f->bytes[ip] & 15u) * 4;
	if (f->len < tcp + 20 || f->bytes[12] != 8 || f->bytes[13] != 0 || f->bytes[ip + 9] != 6)
		return;
	size_t content = tcp + (f->bytes[tcp + 12] >> 4) * 4u;
	if (f->len < content + 2)
		return;
	uint8_t *word = f->bytes + content + ((unsigned)rand_r(&d->seed) % (f->len - content) & ~1u), *sum = f->bytes + tcp + 16;
	if (word + 1 >= f->bytes + f->len)
		return;
	uint32_t was = (uint32_t)word[0] << 8 | word[1], is = was ^ (1u << rand_r(&d->seed) % 16);
	uint32_t total = (~((uint32_t)sum[0] << 8 | sum[1]) & 0xffff) + (~was & 0xffff) + is;
	total = (total & 0xffff) + (total >> 16);
	total = ~((total & 0xffff) + (total >> 16)) & 0xffff;
	word[0] = (uint8_t)(is >> 8), word[1] = (uint8_t)is;
	sum[0] = (uint8_t)(total >> 8), sum[1] = (uint8_t)total;
}

/* The frame at head - 1 has just come in. */
static void mistreat(struct direction *d)
{
	if (d->head <= faults.after)
		return;
	struct frame *f = &d->ring[(d->head - 1) % WIRE_FRAMES], *before = &d->ring[(d->head - 2) % WIRE_FRAMES];
	if (meets(d, faults.spoil))
		spoil(d, f);
	if (d->head - d->tail > 1 && meets(d, faults.swap)) {
		struct frame was = *before;
		int64_t due = f->due_ns;
		*before = *f;
		before->due_ns = was.due_ns;
		*f = was;
		f->due_ns = due;
	}
	if (d->head - d->tail < WIRE_FRAMES && meets(d, faults.twice)) {
		d->ring[d->head % WIRE_FRAMES] = *f;
		d->head++;
	} else if (meets(d, faults.drop)) {
		d->head--;
	}
}

/* Take in all frames that wait. They keep their delay from now on, for the device tells no earlier time. */
static void take_in(struct direction *d)
{
	for (;;) {
		static _Thread_local struct frame dropped;
		struct frame *frame = d->head - d->tail < WIRE_FRAMES ? &d->ring[d->head % WIRE_FRAMES] : &dropped;
		ssize_t n = read(d->in, frame->bytes, FRAME_MAX);
		if (n <= 0)
			return;
		frame->len = (uint32_t)n;
		frame->due_ns = now_ns() + d->delay_ns;
		if (frame == &dropped)
			continue;
		d->head++;
		mistreat(d);
	}
}

static void send_due(struct direction *d)
{
	for (int64_t now = now_ns(); d->tail != d->head && d->ring[d->tail % WIRE_FRAMES].due_ns <= now; d->tail++) {
		const struct frame *frame = &d->ring[d->tail % WIRE_FRAMES];
		(void)!write(d->out, frame->bytes, frame->len); /* a device that is down loses it, as a wire does */
	}
}

static void *carry(void *arg)
{
	struct direction *d = arg;
	prctl(PR_SET_TIMERSLACK, 1000UL);
	for (;;) {
		struct timespec left = {0}, *timeout = NULL;
		if (d->tail != d->head) {
			int64_t wait = d->ring[d->tail % WIRE_FRAMES].due_ns - now_ns();
			if (wait > 0)
				left = (struct timespec){.tv_sec = wait / 1000000000, .tv_nsec = wait % 1000000000};
			timeout = &left;
		}
		struct pollfd in = {.fd = d->in, .events = POLLIN};
		ppoll(&in, 1, timeout, NULL);
		take_in(d);
		send_due(d);
	}
	return NULL;
}

static void say_ready(void)
{
	const char *path = getenv("NOTIFY_SOCKET");
	struct sockaddr_un address = {.sun_family = AF_UNIX};
	int fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);
	if (!path || fd < 0)
		return;
	snprintf(address.sun_path, sizeof address.sun_path, "%s", path);
	sendto(fd, "READY=1", 7, 0, (struct sockaddr *)&address, sizeof address);
	close(fd);
}

int main(int argc, char **argv)
{
	if (argc != 6) {
		fprintf(stderr, "usage: lab-wire NETNS_A IF_A NETNS_B IF_B DELAY_US\n");
		return 2;
	}
	int a = open_tap(argv[1], argv[2]), b = open_tap(argv[3], argv[4]);
	int64_t delay_ns = strtoll(argv[5], NULL, 10) * 1000;
	const char *spec = getenv("LAB_WIRE_FAULTS");
	faults = (struct faults){fault_of(spec, "drop="), fault_of(spec, "double="), fault_of(spec, "swap="), fault_of(spec, "spoil="), fault_of(spec, "after=")};
	struct direction there = {.in = a, .out = b, .delay_ns = delay_ns, .seed = (unsigned)now_ns()}, back = {.in = b, .out = a, .delay_ns = delay_ns, .seed = (unsigned)getpid()};
	there.ring = calloc(WIRE_FRAMES, sizeof *there.ring); /* untouched pages cost nothing */
	back.ring = calloc(WIRE_FRAMES, sizeof *back.ring);
	if (!there.ring || !back.ring)
		die("memory");
	pthread_t thread;
	errno = pthread_create(&thread, NULL, carry, &there);
	if (errno)
		die("thread");
	say_ready();
	carry(&back);
	return 0;
}
