/*
 * The command line. Each option is one row of a table; parsing, help and "given twice" come from
 * it.
 */
#include <errno.h>
#include <getopt.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include "core/options.h"
#include "core/vm.h"

/*
 * What a kernel is told when nothing else is said: a quick, quiet boot on the serial port, and on a
 * panic a reset at once that leaves its mark (main_machine.c) instead of a hang.
 */
#define CMDLINE_1       "console=ttyS0 quiet panic=-1 reboot=panic_warm random.trust_cpu=on"
#define CMDLINE_2       "cryptomgr.notests 8250.nr_uarts=1 pci=noearly tsc=reliable"
#define DEFAULT_CMDLINE CMDLINE_1 " " CMDLINE_2

#define CPUS_MAX 254

enum kind { KIND_STRING, KIND_LIST, KIND_SIZE, KIND_NUMBER, KIND_CHOICE, KIND_SECONDS, KIND_FLAG };

struct option_row {
	char letter; /* 0: long name only */
	const char *name;
	const char *value; /* what the value is called in help; for KIND_CHOICE the words, by | */
	const char *help;
	enum command command;
	enum kind kind;
	char unit; /* KIND_SIZE */
	size_t field;
	uint64_t min, max; /* KIND_NUMBER, KIND_SIZE */
};

#define HELP_INDENT "                              "
#define FIELD(name) .field = offsetof(struct options, name)

#define BENCH_DEV(which)                                                                           \
	{                                                                                          \
		'D', "dev", "PATH", "the KVM device (/dev/kvm)", which, KIND_STRING, FIELD(dev)    \
	}
#define BENCH_JSON(which)                                                                          \
	{                                                                                          \
		0, "json", NULL, "one line for machines", which, KIND_FLAG, FIELD(json)            \
	}
#define BENCH_TIME(which)                                                                          \
	{                                                                                          \
		0, "time", "SECONDS", "for so long (5)", which, KIND_SECONDS, FIELD(time)          \
	}

/* What those bench commands share that load a device. */
#define BENCH_ROWS(which)                                                                          \
	BENCH_TIME(which), { 0,     "wait",      "poll|irq", "how the guest waits (poll)",         \
		             which, KIND_CHOICE, FIELD(wait) },                                    \
	        { 0,                                                                               \
		  "job",                                                                           \
		  "TEXT",                                                                          \
		  "more for the guest: seed=N indirect=0 event_idx=0 dev=N; see\n" HELP_INDENT     \
		  "bench/guest/main.c",                                                            \
		  which,                                                                           \
		  KIND_STRING,                                                                     \
		  FIELD(job) },                                                                    \
	        BENCH_JSON(which), BENCH_DEV(which)

static const struct option_row table[] = {
	{ 'k', "kernel", "PATH", "bzImage or ELF vmlinux, told apart by content (./bzImage)",
	  COMMAND_BOOT, KIND_STRING, FIELD(kernel) },
	{ 'i', "initrd", "PATH", "initial RAM file system", COMMAND_BOOT, KIND_STRING,
	  FIELD(initrd) },
	{ 'm', "memory", "SIZE", "guest RAM, a number and g, m or k; g where none is given (1G)",
	  COMMAND_BOOT, KIND_SIZE, 'g', FIELD(memory), .min = 1 << 20, .max = 1ull << 45 },
	{ 'c', "cpus", "N", "virtual CPUs, 1 to 254 (1)", COMMAND_BOOT, KIND_NUMBER, FIELD(cpus),
	  .min = 1, .max = CPUS_MAX },
	{ 'p', "cmdline", "TEXT", "the whole kernel command line, in place of kring's own",
	  COMMAND_BOOT, KIND_STRING, FIELD(cmdline) },
	{ 0, "append", "TEXT", "more kernel parameters, behind the command line", COMMAND_BOOT,
	  KIND_STRING, FIELD(append) },
	{ 'd', "disk", "PATH[,OPTION...]",
	  "a disk, a raw image or block device; many times; options:\n" HELP_INDENT
	  "readonly direct queues=N serial=S discard=off sync",
	  COMMAND_BOOT, KIND_LIST, FIELD(disks) },
	{ 't', "net", "[tap=]NAME[,OPTION...]",
	  "a network card on that tap; many times; options:\n" HELP_INDENT "mac=M queues=N mtu=N",
	  COMMAND_BOOT, KIND_LIST, FIELD(nets) },
	{ 0, "rng", "off|on", "a source of random bytes for the guest (on)", COMMAND_BOOT,
	  KIND_CHOICE, FIELD(rng) },
	{ 0, "poll", "MICROSECONDS",
	  "how long to look for more work before sleeping (50 where\n" HELP_INDENT
	  "there is a core for each vCPU and one more, else 0)",
	  COMMAND_BOOT, KIND_NUMBER, FIELD(poll), .max = 1000000 },
	{ 0, "registered-memory", "off|on",
	  "register guest RAM with the io_uring: less work for\n" HELP_INDENT
	  "each disk read and write, but all of it is pinned (off)",
	  COMMAND_BOOT, KIND_CHOICE, FIELD(registered_memory) },
	{ 0, "protocol", "auto|linux64|linux32|pvh", "how the kernel is entered (auto)",
	  COMMAND_BOOT, KIND_CHOICE, FIELD(protocol) },
	{ 0, "console", "stdio|none|FILE", "where the serial port leads (stdio)", COMMAND_BOOT,
	  KIND_STRING, FIELD(console) },
	{ 0, "timeout", "SECONDS", "end the guest after that time, exit status 124", COMMAND_BOOT,
	  KIND_SECONDS, FIELD(timeout) },
	{ 0, "reboot", "exit|restart", "what a reboot of the guest does (exit)", COMMAND_BOOT,
	  KIND_CHOICE, FIELD(restart) },
	{ 0, "timings", "FILE", "write phases, markers and exits as JSON; -: standard output",
	  COMMAND_BOOT, KIND_STRING, FIELD(timings) },
	{ 0, "stats", "FILE",
	  "write the counters of the ring, and of the last boot's devices and vCPUs, as JSON",
	  COMMAND_BOOT, KIND_STRING, FIELD(stats) },
	{ 'T', "trace", "N", "single-step, a line on standard error every N instructions (0: off)",
	  COMMAND_BOOT, KIND_SIZE, 0, FIELD(trace), .max = 1ull << 60 },
	{ 'D', "dev", "PATH", "the KVM device (/dev/kvm)", COMMAND_BOOT, KIND_STRING, FIELD(dev) },
	{ 'D', "dev", "PATH", "the KVM device (/dev/kvm)", COMMAND_PROBE, KIND_STRING, FIELD(dev) },
	{ 0, "json", NULL, "for machines", COMMAND_PROBE, KIND_FLAG, FIELD(json) },

	{ 'd', "disk", "PATH[,OPTION...]", "the disk, as for boot -d; many times: all at once",
	  COMMAND_BENCH_DISK, KIND_LIST, FIELD(disks) },
	{ 0, "op", "randread|randwrite|read|write", "what to do with it (randread)",
	  COMMAND_BENCH_DISK, KIND_CHOICE, FIELD(op) },
	{ 0, "destroy", NULL, "let the writing ones overwrite what is on the disk",
	  COMMAND_BENCH_DISK, KIND_FLAG, FIELD(destroy) },
	{ 0, "bs", "BYTES", "a request, a number and k or m; a multiple of 512, to 4m (4k)",
	  COMMAND_BENCH_DISK, KIND_SIZE, 0, FIELD(block_size), .min = 512, .max = 4 << 20 },
	{ 0, "depth", "N", "requests in flight, of all disks and queues together (32)",
	  COMMAND_BENCH_DISK, KIND_NUMBER, FIELD(depth), .min = 1, .max = 1024 },
	{ 0, "queues", "N", "queues in use of each disk, 1 to 16 (1)", COMMAND_BENCH_DISK,
	  KIND_NUMBER, FIELD(queues), .min = 1, .max = 16 },
	{ 0, "verify", NULL, "compare: what was written is read back; what is read must be that",
	  COMMAND_BENCH_DISK, KIND_FLAG, FIELD(verify) },
	BENCH_ROWS(COMMAND_BENCH_DISK),

	{ 't', "net", "[tap=]NAME[,OPTION...]", "the tap, as for boot -t", COMMAND_BENCH_NET,
	  KIND_LIST, FIELD(nets) },
	{ 0, "op", "tx|rx|rr",
	  "the guest sends; the host does; one frame there and back\n" HELP_INDENT
	  "(tx); rx and rr need CAP_NET_RAW",
	  COMMAND_BENCH_NET, KIND_CHOICE, FIELD(op) },
	{ 0, "size", "BYTES",
	  "a frame, Ethernet header included, 60 to 65549; above 1514\n" HELP_INDENT
	  "TCP segments of 1448 bytes in one (64)",
	  COMMAND_BENCH_NET, KIND_NUMBER, FIELD(frame_size), .min = 60, .max = 65549 },
	{ 0, "depth", "N", "frames in flight to the tap, 1 to 1024 (256)", COMMAND_BENCH_NET,
	  KIND_NUMBER, FIELD(depth), .min = 1, .max = 1024 },
	{ 0, "verify", NULL, "compare what comes in (rx, rr)", COMMAND_BENCH_NET, KIND_FLAG,
	  FIELD(verify) },
	{ 0, "plain", NULL, "no guest: a plain loop of system calls on that tap, to compare",
	  COMMAND_BENCH_NET, KIND_FLAG, FIELD(plain) },
	BENCH_ROWS(COMMAND_BENCH_NET),

	{ 't', "net", "NAME", "the tap's interface; it need not be there yet", COMMAND_BENCH_PEER,
	  KIND_LIST, FIELD(nets) },
	{ 0, "op", "rx|rr", "send frames into it; answer those that come out (rx)",
	  COMMAND_BENCH_PEER, KIND_CHOICE, FIELD(op) },
	{ 0, "size", "BYTES", "a frame, as for bench net (64)", COMMAND_BENCH_PEER, KIND_NUMBER,
	  FIELD(frame_size), .min = 60, .max = 65549 },
	BENCH_TIME(COMMAND_BENCH_PEER),

	BENCH_TIME(COMMAND_BENCH_EXITS),
	BENCH_JSON(COMMAND_BENCH_EXITS),
	BENCH_DEV(COMMAND_BENCH_EXITS),

	{ 'k', "kernel", "PATH", "a kernel; many times: side by side (kring's own guest)",
	  COMMAND_BENCH_BOOT, KIND_LIST, FIELD(kernels) },
	{ 'i', "initrd", "PATH", "initial RAM file system, for all kernels", COMMAND_BENCH_BOOT,
	  KIND_STRING, FIELD(initrd) },
	{ 0, "append", "TEXT", "more kernel parameters", COMMAND_BENCH_BOOT, KIND_STRING,
	  FIELD(append) },
	{ 'm', "memory", "SIZE", "guest RAM, a number and g, m or k; g where none is given (1G)",
	  COMMAND_BENCH_BOOT, KIND_SIZE, 'g', FIELD(memory), .min = 1 << 20, .max = 1ull << 45 },
	{ 'n', "runs", "N", "boot each so many times (9)", COMMAND_BENCH_BOOT, KIND_NUMBER,
	  FIELD(runs), .min = 1, .max = 1000 },
	BENCH_JSON(COMMAND_BENCH_BOOT),
	BENCH_DEV(COMMAND_BENCH_BOOT),
};

#define ROWS (sizeof(table) / sizeof(table[0]))

static const char overview[] =
        "kring runs a Linux kernel in a microVM.\n"
        "\n"
        "  kring boot -k KERNEL [-i INITRD] [-m 512m] [-c N] [-d DISK] [-t TAP]\n"
        "      boot it here, its serial console on this terminal; Ctrl-a x ends it\n"
        "  kring boot --help\n"
        "      all options\n"
        "  kring probe [--json]\n"
        "      what this host can do, and what to fix\n"
        "  kring bench disk --disk PATH | net --net TAP | exits | boot [-k KERNEL...]\n"
        "      how fast that is and what it costs, by a guest that comes with kring\n"
        "  kring bench disk --help\n"
        "      all options of that, as for net, peer, exits and boot\n"
        "  kring --version\n"
        "\n"
        "Exit status: 0 the guest powered off or rebooted; 2 the command line is wrong;\n"
        "123 the guest panicked or crashed; 124 --timeout passed; 125 kring or KVM failed; 128+n "
        "signal n.\n";

static const char boot_tail[] =
        "\n"
        "Kernel command line, unless -p is given:\n"
        "  " CMDLINE_1 "\n"
        "  " CMDLINE_2 "\n"
        "\n"
        "Keys on a terminal: Ctrl-a x ends the VM, Ctrl-a h lists the keys,\n"
        "Ctrl-a Ctrl-a sends Ctrl-a to the guest.\n"
        "\n"
        "A byte that the guest writes to port 0x4b52 becomes a marker in --timings.\n";

static void print_rows(enum command command, FILE *out)
{
	for (size_t i = 0; i < ROWS; i++) {
		const struct option_row *row = &table[i];
		char left[64];

		if (row->command != command)
			continue;
		snprintf(left, sizeof(left), "%c%c%s --%s %s", row->letter ? '-' : ' ',
		         row->letter ? row->letter : ' ', row->letter ? "," : " ", row->name,
		         row->value ? row->value : "");
		fprintf(out, strlen(left) > 26 ? "  %s\n%30s%s\n" : "  %-26s%s%s\n", left,
		        strlen(left) > 26 ? "" : "  ", row->help);
	}
}

static void print_help(enum command command)
{
	switch (command) {
	case COMMAND_BOOT:
		printf("kring boot: run a kernel in a microVM.\n\n");
		print_rows(command, stdout);
		fputs(boot_tail, stdout);
		break;
	case COMMAND_PROBE:
		printf("kring probe: what this host can do, and what to fix.\n\n");
		print_rows(command, stdout);
		break;
	case COMMAND_BENCH_DISK:
		printf("kring bench disk: load a disk from a guest that does nothing else.\n\n");
		print_rows(command, stdout);
		break;
	case COMMAND_BENCH_NET:
		printf("kring bench net: load a tap from a guest that does nothing else.\n\n");
		print_rows(command, stdout);
		break;
	case COMMAND_BENCH_PEER:
		printf("kring bench peer: the host's end of bench net, for another monitor's "
		       "guest.\n\n");
		print_rows(command, stdout);
		break;
	case COMMAND_BENCH_EXITS:
		printf("kring bench exits: what each way out of a guest costs.\n\n");
		print_rows(command, stdout);
		break;
	case COMMAND_BENCH_BOOT:
		printf("kring bench boot: from exec to the end, by phases.\n\n");
		print_rows(command, stdout);
		break;
	default:
		fputs(overview, stdout);
	}
}

int options_size(const char *text, char unit, uint64_t *bytes)
{
	static const char units[] = "kKmMgG";
	char *end;
	uint64_t n;
	unsigned shift = 0;

	if (*text < '0' || *text > '9') /* strtoull would take a sign, and spaces */
		return -EINVAL;
	errno = 0;
	n = strtoull(text, &end, 0);
	if (errno)
		return -ERANGE;
	if (*end && !end[1])
		unit = *end++;
	if (*end)
		return -EINVAL;
	if (unit) {
		const char *at = strchr(units, unit);

		if (!at)
			return -EINVAL;
		shift = 10 * ((unsigned)(at - units) / 2 + 1);
	}
	if (n > UINT64_MAX >> shift)
		return -ERANGE;
	*bytes = n << shift;
	return 0;
}

/* The index of @word in "a|b|c", or -1. */
static int choice_find(const char *words, const char *word)
{
	size_t len = strlen(word);

	for (int i = 0;; i++) {
		size_t n = strcspn(words, "|");

		if (n == len && !memcmp(words, word, len))
			return i;
		if (!words[n])
			return -1;
		words += n + 1;
	}
}

static int seconds_parse(const char *text, uint64_t *ns)
{
	char *end;
	double seconds;

	if ((*text < '0' || *text > '9') && *text != '.')
		return -EINVAL;
	seconds = strtod(text, &end);
	if (*end || !(seconds > 0 && seconds < 1e9))
		return -EINVAL;
	*ns = (uint64_t)(seconds * 1e9);
	return *ns ? 0 : -EINVAL;
}

static const char *const kind_name[] = {
	[KIND_STRING] = "a word",
	[KIND_LIST] = "a word",
	[KIND_SIZE] = "a size: a whole number, and g, m or k",
	[KIND_NUMBER] = "a number",
	[KIND_CHOICE] = "one of ",
	[KIND_SECONDS] = "a number of seconds, more than 0",
	[KIND_FLAG] = "a flag",
};

static int row_parse(const struct option_row *row, const char *text, struct options *options,
                     char *why)
{
	void *field = (char *)options + row->field;
	uint64_t *number = field;
	struct option_list *list = field;
	int choice;

	switch (row->kind) {
	case KIND_FLAG:
		*(bool *)field = true;
		return 0;
	case KIND_STRING:
		*(const char **)field = text;
		return 0;
	case KIND_LIST:
		if (list->n == OPTION_LIST_MAX) {
			snprintf(why, WHY_MAX, "--%s is given more than %d times", row->name,
			         OPTION_LIST_MAX);
			return -EINVAL;
		}
		if (*text) /* gokvm's default is "", for none */
			list->value[list->n++] = text;
		return 0;
	case KIND_SECONDS:
		if (seconds_parse(text, number))
			break;
		return 0;
	case KIND_CHOICE:
		choice = choice_find(row->value, text);
		if (choice < 0)
			break;
		*number = (uint64_t)choice;
		return 0;
	case KIND_NUMBER:
	case KIND_SIZE:
		if (options_size(text, row->unit, number))
			break;
		if (row->unit && *number & 0xfff) {
			snprintf(why, WHY_MAX, "--%s %s: must be a multiple of 4k", row->name,
			         text);
			return -EINVAL;
		}
		if (*number < row->min || *number > row->max) {
			if (row->kind == KIND_NUMBER || !row->unit)
				snprintf(why, WHY_MAX, "--%s %s: must be from %llu to %llu",
				         row->name, text, (unsigned long long)row->min,
				         (unsigned long long)row->max);
			else
				snprintf(why, WHY_MAX, "--%s %s: must be from %lluM to %lluG",
				         row->name, text, (unsigned long long)row->min >> 20,
				         (unsigned long long)row->max >> 30);
			return -EINVAL;
		}
		return 0;
	}
	snprintf(why, WHY_MAX, "--%s '%s': not %s%s", row->name, text, kind_name[row->kind],
	         row->kind == KIND_CHOICE ? row->value : "");
	return -EINVAL;
}

/* getopt's view of the rows of one command; a long option's val is its row, past all letters. */
#define ROW_BASE 256

struct getopt_tables {
	char letters[2 * ROWS + 3];
	struct option name[ROWS + 2];
};

static void getopt_fill(struct getopt_tables *tables, enum command command)
{
	size_t names = 0;
	char *letter = tables->letters;

	*letter++ = ':';
	*letter++ = 'h';
	for (size_t i = 0; i < ROWS; i++) {
		if (table[i].command != command)
			continue;
		tables->name[names++] = (struct option){ table[i].name, table[i].value != NULL,
			                                 NULL, ROW_BASE + (int)i };
		if (table[i].letter) {
			*letter++ = table[i].letter;
			if (table[i].value)
				*letter++ = ':';
		}
	}
	*letter = '\0';
	tables->name[names++] = (struct option){ "help", 0, NULL, 'h' };
	tables->name[names] = (struct option){ 0 };
}

static const struct option_row *row_find(enum command command, int c)
{
	if (c >= ROW_BASE)
		return &table[c - ROW_BASE];
	for (size_t i = 0; i < ROWS; i++)
		if (table[i].command == command && table[i].letter == c)
			return &table[i];
	return NULL;
}

static int command_parse(struct options *options, const char *name, int argc, char **argv,
                         char *why)
{
	struct getopt_tables tables = { 0 };
	bool seen[ROWS] = { false };
	int c;

	getopt_fill(&tables, options->command);
	opterr = 0;
	optind = 0;
	while ((c = getopt_long(argc, argv, tables.letters, tables.name, NULL)) != -1) {
		const char *word = argv[optind - 1];

		if (c == 'h') {
			print_help(options->command);
			options->command = COMMAND_HELP;
			return 0;
		}
		if (c == ':') {
			snprintf(why, WHY_MAX, "--%s needs a value; see kring %s --help",
			         row_find(options->command, optopt)->name, name);
			return -EINVAL;
		}
		if (c == '?') {
			if (optopt && optopt < ROW_BASE)
				snprintf(why, WHY_MAX, "unknown option -%c; see kring %s --help",
				         optopt, name);
			else
				snprintf(why, WHY_MAX, "unknown option %s; see kring %s --help",
				         word, name);
			return -EINVAL;
		}

		const struct option_row *row = row_find(options->command, c);

		if (seen[row - table] && row->kind != KIND_LIST) {
			snprintf(why, WHY_MAX, "--%s is given twice", row->name);
			return -EINVAL;
		}
		seen[row - table] = true;
		if (row_parse(row, optarg, options, why))
			return -EINVAL;
	}
	if (optind < argc) {
		snprintf(why, WHY_MAX, "'%s' is not an option%s; see kring %s --help", argv[optind],
		         options->command == COMMAND_BOOT ? " (a kernel is given with -k)" : "",
		         name);
		return -EINVAL;
	}
	return 0;
}

static const struct command_word {
	const char *word;
	enum command command;
	const char *name; /* NULL: takes no options */
} commands[] = {
	{ "boot", COMMAND_BOOT, "boot" },
	{ "probe", COMMAND_PROBE, "probe" },
	{ "help", COMMAND_HELP, NULL },
	{ "--help", COMMAND_HELP, NULL },
	{ "-h", COMMAND_HELP, NULL },
	{ "version", COMMAND_VERSION, NULL },
	{ "--version", COMMAND_VERSION, NULL },
	{ "bench", COMMAND_BENCH, NULL },
}, benches[] = {
	{ "disk", COMMAND_BENCH_DISK, "bench disk" },
	{ "net", COMMAND_BENCH_NET, "bench net" },
	{ "peer", COMMAND_BENCH_PEER, "bench peer" },
	{ "exits", COMMAND_BENCH_EXITS, "bench exits" },
	{ "boot", COMMAND_BENCH_BOOT, "bench boot" },
	{ "--help", COMMAND_HELP, NULL },
	{ "-h", COMMAND_HELP, NULL },
};

#define WORDS(table) table, sizeof(table) / sizeof((table)[0])

static const struct command_word *word_find(const struct command_word *words, size_t n,
                                            const char *word)
{
	for (size_t i = 0; i < n; i++)
		if (!strcmp(words[i].word, word))
			return &words[i];
	return NULL;
}

/* What argv[1], and behind "bench" argv[2], say; steps over them. */
static const struct command_word *command_find(int *argc, char ***argv, char *why)
{
	const struct command_word *found;

	if (*argc < 2) {
		snprintf(why, WHY_MAX, "say what to do: boot, probe or bench; see kring --help");
		return NULL;
	}
	found = word_find(WORDS(commands), *++*argv);
	if (!found)
		snprintf(why, WHY_MAX,
		         "unknown command '%s': boot, probe or bench; see kring --help", **argv);
	--*argc;
	if (!found || found->command != COMMAND_BENCH)
		return found;

	found = *argc < 2 ? NULL : word_find(WORDS(benches), *++*argv);
	if (!found)
		snprintf(why, WHY_MAX,
		         "say what to bench: disk, net, peer, exits or boot; see kring --help");
	--*argc;
	return found;
}

int options_parse(struct options *options, int argc, char **argv, char *why)
{
	const struct command_word *word;

	*options = (struct options){
		.dev = "/dev/kvm",
		.kernel = "./bzImage",
		.cmdline = DEFAULT_CMDLINE,
		.console = "stdio",
		.memory = 1ull << 30,
		.cpus = 1,
		.rng = 1,
		.poll = POLL_AUTO,
		.block_size = 4096,
		.frame_size = 64,
		.queues = 1,
		.time = 5000000000,
		.runs = 9,
	};
	word = command_find(&argc, &argv, why);
	if (!word)
		return -EINVAL;
	options->command = word->command;
	if (word->name)
		return command_parse(options, word->name, argc, argv, why);
	if (options->command == COMMAND_HELP)
		print_help(COMMAND_HELP);
	return 0;
}
