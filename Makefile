# kring: `make run` boots a Linux, `make test` proves it, `make help` lists the rest.

BUILD  ?= build
ifeq ($(origin CC),default)
CC     := gcc
endif
CFLAGS ?= -O2 -g
IASL   ?= iasl

ROOMS := core arch/x86 virtio io
WARN  := -Wall -Wextra -Werror -Wshadow -Wstrict-prototypes -Wmissing-prototypes -Wvla \
	 -Wpointer-arith -Wwrite-strings
ALL_CFLAGS := -std=gnu11 -D_GNU_SOURCE -I. -I$(BUILD) -pthread $(WARN) $(CFLAGS) \
	      -ffunction-sections -fdata-sections -fno-common -MMD -MP
ALL_LDFLAGS := -static -pthread -Wl,--gc-sections $(LDFLAGS)

SRC := $(wildcard $(addsuffix /*.c,$(ROOMS)))
OBJ := $(SRC:%.c=$(BUILD)/%.o)
LIB := $(BUILD)/libkring.a

all: $(BUILD)/kring

$(BUILD)/kring: $(BUILD)/core/main.o $(LIB)
	$(CC) $(ALL_CFLAGS) $(ALL_LDFLAGS) -o $@ $^ -luring

$(LIB): $(filter-out $(BUILD)/core/main.o,$(OBJ))
	rm -f $@
	$(AR) rcs $@ $^

$(BUILD)/%.o: %.c
	@mkdir -p $(@D)
	$(CC) $(ALL_CFLAGS) -c -o $@ $<

# The DSDT, compiled to a C array named dsdt_aml_code.
$(BUILD)/arch/x86/acpi.o: $(BUILD)/dsdt.hex
$(BUILD)/dsdt.hex: arch/x86/dsdt.asl
	@mkdir -p $(@D)
	$(IASL) -tc -p $(BUILD)/dsdt $< > $(BUILD)/dsdt.log || { cat $(BUILD)/dsdt.log; exit 1; }

# Unit tests: tests/<room>_<file>.c, each a cmocka program of its own.
UNIT := $(patsubst tests/%.c,$(BUILD)/tests/%,$(wildcard tests/core_*.c tests/arch_*.c tests/io_*.c \
	tests/virtio_*.c))

$(BUILD)/tests/%: tests/%.c $(LIB)
	@mkdir -p $(@D)
	$(CC) $(ALL_CFLAGS) -Wno-missing-prototypes $(LDFLAGS) -o $@ $< $(LIB) -l:liburing.a -lcmocka

unit: $(UNIT)
	@set -e; for t in $(UNIT); do $$t; done

clean:
	rm -rf $(BUILD)

-include $(OBJ:.o=.d)
.PHONY: all unit clean
