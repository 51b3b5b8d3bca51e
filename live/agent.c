// The guest's only program: /init of the initramfs. It takes orders from the host over a virtio serial port.
//
// One request, one answer, in one thread and without allocating memory after the greeting, so that what the host counts is what the
// kernel did. All integers are little endian.
//
//   request:  u32 length of the rest, u8 order, body
//   answer:   u32 length of the rest, i64 result (-errno when negative), data
//
//   'w'  steps: {u16 path length, u16 data length, path, data}...   write each file once, in order; stops at the first error.
//        result: that of the last write; data: i32 of each write that was tried
//   'r'  paths, each ended by NUL                                    data: {i32 length or -errno, bytes} of each file
//   'l'  path                                                        data: names in that directory, each ended by NUL
//   'i'  path                                                        load a kernel module
//   'm'  i32 slot, shift, pages, node (-1: any)                      map and populate huge pages
//   'u'  i32 slot                                                    unmap them
//   'q'                                                              power off
#define _GNU_SOURCE
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/reboot.h>
#include <poll.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/reboot.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#define ROOM (4u << 20)
#define SLOTS 1024
#define MPOL_DEFAULT 0
#define MPOL_BIND 2

static char in[ROOM], out[ROOM];
static uint32_t used; // bytes of `out` after the two header fields
static struct { char *at; size_t size; } slots[SLOTS];
static int port;

static int64_t or_errno(int64_t rc) { return rc < 0 ? -errno : rc; }

static int take(char *to, uint32_t n)
{
	while (n) {
		ssize_t got = read(port, to, n);
		if (got <= 0) {
			// Nobody on the other end yet: a port without a host reads as end of file.
			struct pollfd wait = { .fd = port, .events = POLLIN };
			if (got < 0 && errno != EAGAIN && errno != EINTR)
				return -1;
			poll(&wait, 1, 10);
			continue;
		}
		to += got;
		n -= got;
	}
	return 0;
}

static void give(const char *from, uint32_t n)
{
	while (n) {
		ssize_t put = write(port, from, n);
		if (put <= 0) {
			struct pollfd wait = { .fd = port, .events = POLLOUT };
			poll(&wait, 1, 10);
			continue;
		}
		from += put;
		n -= put;
	}
}

static void answer(int64_t rc)
{
	uint32_t length = used + sizeof rc;
	memcpy(out, &length, sizeof length);
	memcpy(out + sizeof length, &rc, sizeof rc);
	give(out, sizeof length + length);
}

static void put(const void *from, uint32_t n)
{
	char *to = out + 12 + used;
	if (used + n + 12 > ROOM)
		return;
	memcpy(to, from, n);
	used += n;
}

static int64_t write_file(const char *path, const char *data, size_t n)
{
	int fd = open(path, O_WRONLY | O_CLOEXEC);
	int64_t rc;

	if (fd < 0)
		return -errno;
	rc = or_errno(write(fd, data, n));
	close(fd);
	return rc;
}

static int64_t steps(char *at, char *end)
{
	int64_t rc = 0;

	while (at + 4 <= end && rc >= 0) {
		uint16_t path, data;
		char name[512];
		int32_t short_rc;

		memcpy(&path, at, 2);
		memcpy(&data, at + 2, 2);
		at += 4;
		if (path >= sizeof name)
			return -ENAMETOOLONG;
		memcpy(name, at, path);
		name[path] = 0;
		rc = write_file(name, at + path, data);
		at += path + data;
		short_rc = rc;
		put(&short_rc, sizeof short_rc);
	}
	return rc;
}

static int64_t read_files(char *at, char *end)
{
	while (at < end) {
		int fd = open(at, O_RDONLY | O_CLOEXEC);
		uint32_t mark = used;
		int32_t length = fd < 0 ? -errno : 0;

		put(&length, sizeof length);
		while (fd >= 0 && used + 12 < ROOM) {
			ssize_t got = read(fd, out + 12 + used, ROOM - 12 - used);
			if (got <= 0) {
				if (got < 0)
					length = -errno;
				break;
			}
			used += got;
			length += got;
		}
		if (fd >= 0)
			close(fd);
		memcpy(out + 12 + mark, &length, sizeof length);
		at += strlen(at) + 1;
	}
	return 0;
}

static int64_t list(const char *path)
{
	char room[4096];
	int fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	long got;

	if (fd < 0)
		return -errno;
	while ((got = syscall(SYS_getdents64, fd, room, sizeof room)) > 0) {
		for (long at = 0; at < got;) {
			char *entry = room + at;
			uint16_t size;

			memcpy(&size, entry + 16, 2);
			put(entry + 19, strlen(entry + 19) + 1);
			at += size;
		}
	}
	close(fd);
	return 0;
}

static int64_t load(const char *path)
{
	int fd = open(path, O_RDONLY | O_CLOEXEC);
	int64_t rc;

	if (fd < 0)
		return -errno;
	rc = or_errno(syscall(SYS_finit_module, fd, "", 0));
	close(fd);
	return rc;
}

static int64_t map(const int32_t *a)
{
	size_t page = 1ul << a[1], size = page * (uint32_t)a[2];
	int flags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_HUGETLB | MAP_POPULATE | a[1] << MAP_HUGE_SHIFT;
	unsigned long nodes = a[3] < 0 ? 0 : 1ul << a[3];
	char *at;
	int64_t rc = 0;

	if (a[0] < 0 || a[0] >= SLOTS || slots[a[0]].size)
		return -EBADF;
	if (nodes && syscall(SYS_set_mempolicy, MPOL_BIND, &nodes, 64))
		return -errno;
	at = mmap(NULL, size, PROT_READ | PROT_WRITE, flags, -1, 0);
	if (at == MAP_FAILED)
		rc = -errno;
	syscall(SYS_set_mempolicy, MPOL_DEFAULT, NULL, 0);
	if (rc)
		return rc;
	// Populating is allowed to fall short without an error; the program must hear of it.
	for (size_t i = 0; i < size && !rc; i += page) {
		unsigned char there = 0;
		if (mincore(at + i, 4096, &there) || !(there & 1))
			rc = -EFAULT;
	}
	if (rc) {
		munmap(at, size);
		return rc;
	}
	slots[a[0]].at = at;
	slots[a[0]].size = size;
	return 0;
}

static int64_t unmap(int32_t slot)
{
	int64_t rc;

	if (slot < 0 || slot >= SLOTS || !slots[slot].size)
		return -EBADF;
	rc = or_errno(munmap(slots[slot].at, slots[slot].size));
	slots[slot].size = 0;
	return rc;
}

static int open_port(void)
{
	for (;;) {
		int fd = open("/dev/vport0p1", O_RDWR | O_CLOEXEC);
		if (fd >= 0)
			return fd;
		usleep(5000);
	}
}

int main(void)
{
	mount("dev", "/dev", "devtmpfs", 0, NULL);
	mount("proc", "/proc", "proc", 0, NULL);
	mount("sys", "/sys", "sysfs", 0, NULL);
	mount("debug", "/sys/kernel/debug", "debugfs", 0, NULL);
	// Touched now, the buffers never show up as missing free pages later.
	memset(in, 1, sizeof in);
	memset(out, 1, sizeof out);
	port = open_port();
	answer(0);
	for (;;) {
		uint32_t length;
		int64_t rc;
		int32_t args[4];

		used = 0;
		if (take((char *)&length, sizeof length) || length == 0 || length >= ROOM || take(in, length))
			break;
		in[length] = 0;
		memcpy(args, in + 1, sizeof args);
		switch (in[0]) {
		case 'w': rc = steps(in + 1, in + length); break;
		case 'r': rc = read_files(in + 1, in + length); break;
		case 'l': rc = list(in + 1); break;
		case 'i': rc = load(in + 1); break;
		case 'm': rc = map(args); break;
		case 'u': rc = unmap(args[0]); break;
		case 'q': reboot(LINUX_REBOOT_CMD_POWER_OFF); rc = -EIO; break;
		default: rc = -ENOSYS;
		}
		answer(rc);
	}
	reboot(LINUX_REBOOT_CMD_POWER_OFF);
	return 0;
}
