# shellcheck shell=bash
# What an interactive bash needs to be a kernel: no prompts, no history, no jobs, and lines that say what came of the code.
# $ATOLL_CODE has two descriptors: for those lines, and for errors.
# shellcheck source=/dev/null
if [ -f ~/.bashrc ]; then . ~/.bashrc; fi > /dev/null 2>&1
PS1='' PS2=''
set +H +m +o history
unset MAILCHECK HISTFILE
read -r __atoll_hear __atoll_err <<< "$ATOLL_CODE"
unset ATOLL_CODE
exec 2>&"$__atoll_err" {__atoll_err}>&-
declare -A __atoll_kept=()

# Variables for one execution: NAME=VALUE each. What they were before comes back.
__atoll_push() {
    local pair name
    for pair in "$@"; do
        name=${pair%%=*}
        if [ -n "${!name+set}" ]; then __atoll_kept[$name]="=${!name}"; else __atoll_kept[$name]=; fi
        export "${pair?}"
    done
}

# Says the status of what was before, as that of the execution of this number.
__atoll_pop() {
    local status=$? name
    for name in "${!__atoll_kept[@]}"; do
        if [ -n "${__atoll_kept[$name]}" ]; then export "$name${__atoll_kept[$name]}"; else unset "$name"; fi
    done
    __atoll_kept=()
    printf '%d %d\n' "$1" "$status" >&"$__atoll_hear"
}
