# shellcheck shell=sh disable=SC2154 # see lib.sh
# The examples of the README, as they stand there.

# readme_example N: runs the N-th block.
readme_example() {
	awk -v n="$1" '/^```sh$/ { block++; inside = block == n; next } /^```$/ { inside = 0 } inside' \
		"$here/../../README.md" >example.sh
	[ -s example.sh ] || fail "the README has no example $1"
	mkdir -p build
	ln -sf "$KRING" build/kring
	sh -eu example.sh >out 2>err || fail "README, example $1: exit status $?"
}

test_readme_1() { readme_example 1; }
test_readme_2() { readme_example 2; }
test_readme_3() { readme_example 3; }
test_readme_4() { readme_example 4; }

# The verdict is the host's own business; that there is one is not.
test_readme_5() {
	readme_example 5 || :
	tail -n 1 out | grep -qE '^(ready|fix: )' || fail 'the last line is no verdict'
}
