/* pages.h - large memory from the operating system, in huge pages where it has them. */
#pragma once
#include <stddef.h>
#include <stdint.h>

/* Zeroed, aligned to 2 MiB; NULL when the address space has no room. Pages take memory when they
 * are first written. */
void *pages_new(size_t size_bytes);
void pages_free(void *pages, size_t size_bytes); /* NULL does nothing */
/* A part of them takes no memory until it is written again; what was there is lost. */
void pages_give_back(void *at, size_t size_bytes);

/* What this process could still get without swapping, caches of files included: what the machine
 * has, or what a control group (a container's, a service's) leaves of its limit. 0 when nobody
 * says. */
uint64_t pages_available_bytes(void);
/* What the groups from `group` ("/a/b") up to the mount point of control groups `root` leave;
 * UINT64_MAX: no limit. */
uint64_t pages_group_bytes(const char *root, const char *group);
