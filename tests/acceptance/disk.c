/*
 * Stands between a process and its disk, by LD_PRELOAD: tells in a log of every change to the files of one folder and of every
 * sync, in the order in which they happened, and lets the k-th of them fail.
 *
 * One lock is held over each call and its line of the log, so that the order is that of the system. Changes made through a
 * mapping are not seen: of SQLite's files only the -shm has them, which no start after a loss of power reads.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <pthread.h>
#include <signal.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <unistd.h>

enum kind { OPEN = 'o', WRITE = 'w', CUT = 't', SYNC = 's', UNLINK = 'u', RENAME = 'r', MARK = 'm', FAILED = 'f' };

/* A line of the log: this, then `length` bytes: what was written, or a name, or two with a NUL between. */
struct line {
	uint32_t kind;
	int32_t descriptor;
	int64_t offset; /* where it was written; the new size; of OPEN whether the file was made */
	int64_t length;
};

/* Shared with the test: what is to fail. Counts are of calls since the control was laid out. */
struct control {
	int64_t writes, syncs;                /* seen */
	int64_t failing_write, failing_sync;  /* the first that fails, from 1; 0: none */
	int64_t write_failures, sync_failures; /* how many fail, in a row */
	int64_t write_error, sync_error;      /* errno; 0: the process is killed over it */
	int64_t sync_delay;                   /* us, of each that succeeds */
	int64_t failed;                       /* have failed */
};

#define MOST_DESCRIPTORS 4096
static char *names[MOST_DESCRIPTORS]; /* of the open files of the folder */
static char folder[PATH_MAX];
static size_t folder_length;
static int out = -1;
static struct control *control;
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;

#define REAL(name) __typeof__(&name) real = (__typeof__(&name))dlsym(RTLD_NEXT, #name)

static void tell(enum kind kind, int descriptor, int64_t offset, const void *bytes, int64_t length)
{
	struct line line = { kind, descriptor, offset, length };
	struct iovec parts[] = { { &line, sizeof line }, { (void *)bytes, (size_t)length } };
	if (out >= 0 && writev(out, parts, 2) != (ssize_t)(sizeof line + length))
		abort();
}

/* The name below the folder, "" for the folder itself, or NULL. */
static const char *inside(const char *path)
{
	if (!folder_length || strncmp(path, folder, folder_length))
		return NULL;
	if (!path[folder_length])
		return "";
	return path[folder_length] == '/' ? path + folder_length + 1 : NULL;
}

static int is_ours(int descriptor)
{
	return folder_length && descriptor >= 0 && descriptor < MOST_DESCRIPTORS && names[descriptor];
}

/* Whether this call is to fail; errno says how. Only the files of the database fail. */
static int fails(int descriptor, int64_t *seen, int64_t first, int64_t count, int64_t error)
{
	if (!control || strncmp(names[descriptor], "hooks.db", 8) || strstr(names[descriptor], ".lock"))
		return 0;
	*seen += 1;
	if (!first || *seen < first || *seen >= first + count)
		return 0;
	control->failed += 1;
	errno = (int)error;
	return 1;
}

static int write_fails(int descriptor)
{
	return control && fails(descriptor, &control->writes, control->failing_write, control->write_failures, control->write_error);
}

static int opened(int descriptor, const char *path, int existed)
{
	const char *name = descriptor < 0 || descriptor >= MOST_DESCRIPTORS ? NULL : inside(path);
	if (name) {
		names[descriptor] = strdup(name);
		tell(OPEN, descriptor, !existed, name, (int64_t)strlen(name));
	}
	return descriptor;
}

static int open_as(int (*real)(const char *, int, ...), const char *path, int flags, mode_t mode)
{
	if (!inside(path))
		return real(path, flags, mode);
	pthread_mutex_lock(&lock);
	int existed = access(path, F_OK) == 0;
	int descriptor = opened(real(path, flags, mode), path, existed);
	if (descriptor >= 0 && existed && (flags & O_TRUNC) && is_ours(descriptor))
		tell(CUT, descriptor, 0, "", 0);
	pthread_mutex_unlock(&lock);
	return descriptor;
}

#define OPENER(name)                                       \
	int name(const char *path, int flags, ...)         \
	{                                                  \
		REAL(name);                                \
		va_list more;                              \
		va_start(more, flags);                     \
		mode_t mode = va_arg(more, mode_t);        \
		va_end(more);                              \
		return open_as(real, path, flags, mode);   \
	}
OPENER(open)
OPENER(open64)

int close(int descriptor)
{
	REAL(close);
	pthread_mutex_lock(&lock);
	if (is_ours(descriptor)) {
		free(names[descriptor]);
		names[descriptor] = NULL;
	}
	int result = real(descriptor);
	pthread_mutex_unlock(&lock);
	return result;
}

static ssize_t write_at(int descriptor, const void *bytes, size_t length, int64_t offset)
{
	static ssize_t (*real)(int, const void *, size_t, off64_t);
	if (!real)
		real = (ssize_t(*)(int, const void *, size_t, off64_t))dlsym(RTLD_NEXT, "pwrite64");
	if (!is_ours(descriptor))
		return real(descriptor, bytes, length, offset);
	pthread_mutex_lock(&lock);
	ssize_t result = -1;
	if (!write_fails(descriptor) && (result = real(descriptor, bytes, length, offset)) > 0)
		tell(WRITE, descriptor, offset, bytes, result);
	pthread_mutex_unlock(&lock);
	return result;
}

ssize_t pwrite(int descriptor, const void *bytes, size_t length, off_t offset)
{
	return write_at(descriptor, bytes, length, offset);
}

ssize_t pwrite64(int descriptor, const void *bytes, size_t length, off64_t offset)
{
	return write_at(descriptor, bytes, length, offset);
}

ssize_t write(int descriptor, const void *bytes, size_t length)
{
	REAL(write);
	if (!is_ours(descriptor))
		return real(descriptor, bytes, length);
	pthread_mutex_lock(&lock);
	ssize_t result = -1;
	int64_t offset = lseek64(descriptor, 0, SEEK_CUR);
	if (!write_fails(descriptor) && (result = real(descriptor, bytes, length)) > 0)
		tell(WRITE, descriptor, offset, bytes, result);
	pthread_mutex_unlock(&lock);
	return result;
}

static int cut(int descriptor, int64_t size, int (*real)(int, off64_t))
{
	if (!is_ours(descriptor))
		return real(descriptor, size);
	pthread_mutex_lock(&lock);
	int result = -1;
	if (!write_fails(descriptor) && (result = real(descriptor, size)) == 0)
		tell(CUT, descriptor, size, "", 0);
	pthread_mutex_unlock(&lock);
	return result;
}

int ftruncate(int descriptor, off_t size)
{
	REAL(ftruncate64);
	return cut(descriptor, size, real);
}

int ftruncate64(int descriptor, off64_t size)
{
	REAL(ftruncate64);
	return cut(descriptor, size, real);
}

static int synced(int descriptor, int (*real)(int))
{
	if (!is_ours(descriptor))
		return real(descriptor);
	pthread_mutex_lock(&lock);
	int result = -1;
	if (control && fails(descriptor, &control->syncs, control->failing_sync, control->sync_failures, control->sync_error)) {
		tell(FAILED, descriptor, 0, "", 0);
		if (!errno)
			raise(SIGKILL);
	} else if ((result = real(descriptor)) == 0) {
		if (control)
			usleep((useconds_t)control->sync_delay);
		tell(SYNC, descriptor, 0, "", 0);
	}
	pthread_mutex_unlock(&lock);
	return result;
}

int fsync(int descriptor)
{
	REAL(fsync);
	return synced(descriptor, real);
}

int fdatasync(int descriptor)
{
	REAL(fdatasync);
	return synced(descriptor, real);
}

int unlink(const char *path)
{
	REAL(unlink);
	const char *name = inside(path);
	if (!name)
		return real(path);
	pthread_mutex_lock(&lock);
	int result = real(path);
	if (result == 0)
		tell(UNLINK, -1, 0, name, (int64_t)strlen(name));
	pthread_mutex_unlock(&lock);
	return result;
}

int rename(const char *from, const char *to)
{
	REAL(rename);
	const char *old = inside(from), *new = inside(to);
	if (!old || !new)
		return real(from, to);
	char both[2 * PATH_MAX];
	pthread_mutex_lock(&lock);
	int result = real(from, to);
	if (result == 0)
		tell(RENAME, -1, 0, both, snprintf(both, sizeof both, "%s%c%s", old, 0, new));
	pthread_mutex_unlock(&lock);
	return result;
}

/* Called by the process itself. */

void disk_watch(const char *path, const char *log, const char *shared)
{
	if (*log && (out = open(log, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600)) < 0)
		abort();
	if (*shared) {
		int descriptor = open(shared, O_RDWR | O_CLOEXEC);
		control = mmap(NULL, sizeof *control, PROT_READ | PROT_WRITE, MAP_SHARED, descriptor, 0);
		if (control == MAP_FAILED)
			abort();
		close(descriptor);
	}
	strncpy(folder, path, sizeof folder - 1);
	folder_length = strlen(folder);
}

void disk_mark(const char *text)
{
	pthread_mutex_lock(&lock);
	tell(MARK, -1, 0, text, (int64_t)strlen(text));
	pthread_mutex_unlock(&lock);
}
