/*
 * See support.h. Linux shows a process to itself under /proc/self; elsewhere the figures are 0 and
 * the tests that need them say so.
 *
 * SPDX-License-Identifier: MIT
 */
#include "support/support.h"

#include <dirent.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define SEED_USUAL UINT64_C(0x62657274686265)

static unsigned descriptors_noted;

unsigned
test_descriptors_open(void)
{
    DIR *directory = opendir("/proc/self/fd");
    if (directory == NULL)
        return 0;
    unsigned count = 0;
    while (readdir(directory) != NULL)
        count++;
    (void)closedir(directory);
    return count - 3; /* ".", "..", and the directory itself */
}

void
test_descriptors_note(void)
{
    descriptors_noted = test_descriptors_open();
}

void
test_descriptors_compare(void)
{
    ck_assert_msg(test_descriptors_open() == descriptors_noted,
                  "%u descriptors were open before the test, %u are after it", descriptors_noted,
                  test_descriptors_open());
}

int
test_run(Suite *suite)
{
    SRunner *runner = srunner_create(suite);
    const unsigned before = test_descriptors_open();
    srunner_run_all(runner, CK_ENV);
    const int failed = srunner_ntests_failed(runner);
    const unsigned after = test_descriptors_open();
    srunner_free(runner);
    if (before != after)
        printf("%u descriptors were open before the suite, %u are after it\n", before, after);
    return failed == 0 && before == after ? EXIT_SUCCESS : EXIT_FAILURE;
}

uint64_t
test_rounds(const char *variable, uint64_t usual)
{
    const char *text = getenv(variable);
    if (text == NULL || *text == '\0')
        return usual;
    return strtoull(text, NULL, 0);
}

uint64_t
test_seed(const char *name)
{
    const uint64_t seed = test_rounds("BERTH_SEED", SEED_USUAL);
    printf("%s: BERTH_SEED=0x%" PRIx64 "\n", name, seed);
    fflush(stdout);
    return seed;
}

/* A Weyl sequence through a mixing function: short, and good enough to choose what to do next. */
uint64_t
test_random(uint64_t *state)
{
    uint64_t mixed = *state += UINT64_C(0x9e3779b97f4a7c15);
    mixed = (mixed ^ (mixed >> 30)) * UINT64_C(0xbf58476d1ce4e5b9);
    mixed = (mixed ^ (mixed >> 27)) * UINT64_C(0x94d049bb133111eb);
    return mixed ^ (mixed >> 31);
}

#ifdef BERTH_VALGRIND
#include <valgrind/valgrind.h>
#else
#define RUNNING_ON_VALGRIND 0
#endif

int
test_is_slow(void)
{
    return TEST_SANITIZED || RUNNING_ON_VALGRIND;
}

unsigned
test_mappings(void)
{
    FILE *maps = fopen("/proc/self/maps", "r");
    if (maps == NULL)
        return 0;
    unsigned lines = 0;
    for (int c = getc(maps); c != EOF; c = getc(maps))
        lines += c == '\n';
    (void)fclose(maps);
    return lines;
}

struct test_memory
test_memory_of(const void *start, size_t size)
{
    struct test_memory memory = {0, 0, 0};
    FILE *maps = fopen("/proc/self/smaps", "r");
    if (maps == NULL)
        return memory;
    const uintptr_t first = (uintptr_t)start;
    int inside = 0;
    char line[512];
    while (fgets(line, sizeof(line), maps) != NULL) {
        uintptr_t low, high;
        char access[8];
        size_t kib;
        if (sscanf(line, "%" SCNxPTR "-%" SCNxPTR " %7s", &low, &high, access) == 3) {
            inside = low >= first && high <= first + size;
            if (inside && access[1] == 'w')
                memory.writable += high - low;
        } else if (inside && sscanf(line, "Rss: %zu kB", &kib) == 1) {
            memory.resident += kib * 1024;
        } else if (inside && sscanf(line, "AnonHugePages: %zu kB", &kib) == 1) {
            memory.huge += kib * 1024;
        }
    }
    (void)fclose(maps);
    return memory;
}
