# Run the program on standard input with a Python that the agent can be installed with. Where there is none, print as JSON what was found.
# Usage: sh -c "$(cat find_python.sh)" find_python [PYTHON]      (PYTHON: this one and no other)
found=
for name in ${1:-python3 python3.14 python3.13 python3.12 python3.11 python3.10}; do
    path=$(command -v "$name") || continue
    version=$("$path" -c 'import sys; print("%d.%d.%d" % sys.version_info[:3]); sys.exit(sys.version_info < (3, 10))' 2>/dev/null) && exec "$path" -
    found="$found $name ${version:-that does not run},"
done
# The program is read all the same: whoever writes it would be told of a broken pipe, and not of what was found.
cat >/dev/null
printf '{"python": null, "found": "%s"}\n' "${found%,}"
