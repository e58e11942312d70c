/*
 * Reading JSON (RFC 8259) without a tree: a value is skipped by its brackets and strings.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "bench/bench_json.h"

static const char *skip_space(const char *at)
{
	return at + strspn(at, " \t\r\n");
}

static const char *skip_string(const char *at)
{
	for (at++; *at && *at != '"'; at++)
		if (*at == '\\' && at[1])
			at++;
	return *at ? at + 1 : at;
}

static const char *skip_value(const char *at)
{
	unsigned depth = 0;

	do {
		if (*at == '"') {
			at = skip_string(at);
			continue;
		}
		if (*at == '{' || *at == '[')
			depth++;
		else if (*at == '}' || *at == ']')
			depth--;
		else if (!depth)
			return at + strcspn(at, ",]} \t\r\n");
		at++;
	} while (*at && depth);
	return at;
}

size_t json_length(const char *value)
{
	return (size_t)(skip_value(value) - value);
}

/* The value of the member @name of the object at @at. */
static const char *member_find(const char *at, const char *name, size_t len)
{
	at = skip_space(at + 1);
	while (*at == '"') {
		const char *key = at + 1;
		const char *end = skip_string(at);
		const char *value = skip_space(end);

		if (*value != ':')
			return NULL;
		value = skip_space(value + 1);
		if ((size_t)(end - 1 - key) == len && !memcmp(key, name, len))
			return value;
		at = skip_space(skip_value(value));
		at = *at == ',' ? skip_space(at + 1) : at;
	}
	return NULL;
}

static const char *element_find(const char *at, unsigned long index)
{
	at = skip_space(at + 1);
	while (*at && *at != ']') {
		if (!index--)
			return at;
		at = skip_space(skip_value(at));
		at = *at == ',' ? skip_space(at + 1) : at;
	}
	return NULL;
}

const char *json_find(const char *json, const char *path)
{
	const char *at = skip_space(json);

	while (at && *path) {
		size_t len = strcspn(path, "/");

		if (*at == '{')
			at = member_find(at, path, len);
		else if (*at == '[')
			at = element_find(at, strtoul(path, NULL, 10));
		else
			at = NULL;
		path += len + (path[len] == '/');
	}
	return at;
}

double json_number(const char *json, const char *path)
{
	const char *value = json_find(json, path);

	return value ? strtod(value, NULL) : 0;
}

double json_sum(const char *json, const char *path, const char *name)
{
	const char *array = json_find(json, path);
	double sum = 0;

	for (unsigned i = 0; array && *array == '['; i++) {
		const char *object = element_find(array, i);

		if (!object)
			break;
		sum += json_number(object, name);
	}
	return sum;
}
