/* Counts what a process allocates: loaded before the C library (LD_PRELOAD, ld.so(8)), it adds up the
   bytes that are allocated, and those that are held, in the file that COUNT_ALLOCATIONS_IN names: two
   numbers of 64 bits in the machine's order. A block counts for what malloc_usable_size(3) says. */

#include <errno.h>
#include <fcntl.h>
#include <malloc.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

/* glibc's own, by the names that it exports for those who stand before it. */
extern void *__libc_malloc(size_t);
extern void *__libc_calloc(size_t, size_t);
extern void *__libc_realloc(void *, size_t);
extern void *__libc_memalign(size_t, size_t);
extern void __libc_free(void *);

struct counts {
	_Atomic uint64_t allocated;
	_Atomic uint64_t held;
};

static struct counts unseen;
static struct counts *counts = &unseen;

__attribute__((constructor)) static void show(void)
{
	const char *path = getenv("COUNT_ALLOCATIONS_IN");
	int file = path ? open(path, O_RDWR | O_CLOEXEC) : -1;
	if (file < 0)
		return;
	void *shown = mmap(NULL, sizeof(*counts), PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
	close(file);
	if (shown == MAP_FAILED)
		return;
	counts = shown;
	counts->allocated += unseen.allocated;
	counts->held += unseen.held;
}

static void *taken(void *block)
{
	size_t size = block ? malloc_usable_size(block) : 0;
	counts->allocated += size;
	counts->held += size;
	return block;
}

void *malloc(size_t size)
{
	return taken(__libc_malloc(size));
}

void *calloc(size_t count, size_t size)
{
	return taken(__libc_calloc(count, size));
}

void *realloc(void *old, size_t size)
{
	size_t before = old ? malloc_usable_size(old) : 0;
	void *block = __libc_realloc(old, size);
	/* Nothing and no size: it was freed. Nothing otherwise: the old one is still there. */
	size_t after = block || size == 0 ? malloc_usable_size(block) : before;
	counts->allocated += after > before ? after - before : 0;
	counts->held += after - before;
	return block;
}

void *memalign(size_t alignment, size_t size)
{
	return taken(__libc_memalign(alignment, size));
}

void *aligned_alloc(size_t alignment, size_t size)
{
	return memalign(alignment, size);
}

int posix_memalign(void **block, size_t alignment, size_t size)
{
	*block = memalign(alignment, size);
	return *block ? 0 : ENOMEM;
}

void free(void *block)
{
	counts->held -= block ? malloc_usable_size(block) : 0;
	__libc_free(block);
}
