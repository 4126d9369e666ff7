/* What the library says of itself and of the processor; compiled once, for the oldest processor of the platform.

   The levels are those of the x86-64 psABI (https://gitlab.com/x86-psABIs/x86-64-ABI, "micro-architecture levels"). They are
   read from cpuid and xgetbv here: __builtin_cpu_supports names another level under some compilers. */

#if defined(_WIN32)
#define EXPORT __declspec(dllexport)
#else
#define EXPORT __attribute__((visibility("default")))
#endif

/* Read from the file's bytes before it is loaded: which sources and flags it was built from. */
EXPORT const char sb3edu_stamp[] = "sb3edu-stamp:" STAMP;

/* Who compiled the library, for people to read. */
EXPORT const char *sb3edu_compiler(void) {
#ifdef __clang__
    return "clang " __clang_version__;
#else
    return "gcc " __VERSION__;
#endif
}

#if defined(__x86_64__)
#include <cpuid.h>

enum { A, B, C, D };

/* Are all these bits set? */
static int has(unsigned word, unsigned bits) { return (word & bits) == bits; }

/* The processor's answer to one question; zeros where it does not know the question. */
static void ask(unsigned leaf, unsigned registers[4]) {
    registers[A] = registers[B] = registers[C] = registers[D] = 0;
    __get_cpuid_count(leaf, 0, &registers[A], &registers[B], &registers[C], &registers[D]);
}

/* The registers that the operating system saves when it switches threads (XCR0). */
static unsigned saved_registers(void) {
    unsigned low, high;
    __asm__ volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
    return low;
}

#define BIT(n) (1u << (n))

/* The highest level of this processor under this operating system: "v1" (too old for any kernel) to "v4". */
EXPORT const char *sb3edu_cpu(void) {
    unsigned basic[4], structured[4], extended[4];
    ask(1, basic);
    ask(7, structured);
    ask(0x80000001u, extended);

    const unsigned sse = BIT(0) /* SSE3 */ | BIT(9) /* SSSE3 */ | BIT(13) /* CMPXCHG16B */ | BIT(19) /* SSE4.1 */
                         | BIT(20) /* SSE4.2 */ | BIT(23) /* POPCNT */;
    if (!has(basic[C], sse) || !has(extended[C], BIT(0) /* LAHF */)) return "v1";

    const unsigned avx = BIT(12) /* FMA */ | BIT(22) /* MOVBE */ | BIT(27) /* OSXSAVE */ | BIT(28) /* AVX */
                         | BIT(29) /* F16C */;
    const unsigned avx2 = BIT(3) /* BMI1 */ | BIT(5) /* AVX2 */ | BIT(8) /* BMI2 */;
    const unsigned ymm = BIT(1) /* xmm */ | BIT(2) /* upper halves of ymm */;
    if (!has(basic[C], avx) || !has(structured[B], avx2) || !has(extended[C], BIT(5) /* LZCNT */) ||
        !has(saved_registers(), ymm))
        return "v2";

    const unsigned avx512 = BIT(16) /* F */ | BIT(17) /* DQ */ | BIT(28) /* CD */ | BIT(30) /* BW */ | BIT(31) /* VL */;
    const unsigned zmm = BIT(5) /* mask registers */ | BIT(6) /* upper halves of zmm */ | BIT(7) /* zmm 16 to 31 */;
    if (!has(structured[B], avx512) || !has(saved_registers(), zmm)) return "v3";
    return "v4";
}

#else

/* Every arm64 processor has what the kernels need (NEON with fused multiply-add). */
EXPORT const char *sb3edu_cpu(void) { return "arm64"; }

#endif
