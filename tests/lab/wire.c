/* SPDX-License-Identifier: Apache-2.0 */
/* lab-wire NETNS_A IF_A NETNS_B IF_B DELAY_US — a wire with a delay between two network namespaces: makes a TAP device in
 * each and carries every frame to the other side, DELAY_US after it was sent. One thread per direction; frames wait in a ring of
 * WIRE_BYTES, what does not fit is dropped as a full router does. Says READY=1 when both devices are there; ends by a signal. */
#include <errno.h>
#include <fcntl.h>
#include <linux/if_tun.h>
#include <net/if.h>
#include <poll.h>
#include <pthread.h>
#include <sched.h>
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

struct direction {
	int in, out;
	int64_t delay_ns;
	struct frame *ring;
	size_t head, tail; /* frames taken in, sent out; both only grow */
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
		d->head += frame != &dropped;
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
	struct direction there = {.in = a, .out = b, .delay_ns = delay_ns}, back = {.in = b, .out = a, .delay_ns = delay_ns};
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
