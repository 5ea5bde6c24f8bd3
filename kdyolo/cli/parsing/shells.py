"""Completion scripts of bash, zsh and fish: click's protocol, with KEY=VALUE as one word that a person types on.

Click's own scripts put a blank behind ``lr0=``, find no file behind ``data=``, cut descriptions at a comma in fish, and
want zsh's completion to be switched on before. A completion has one kind more here, :data:`KEYED_FILE`.
"""

from __future__ import annotations

import click
from click.shell_completion import BashComplete, CompletionItem, FishComplete, ZshComplete, add_completion_class

KEYED_FILE = "keyed-file"  # kind of a completion: a file, behind KEY= or --OPTION= in the same word

BASH = """\
%(complete_func)s() {
    local IFS=$'\\n' kind value
    COMPREPLY=()
    while IFS=, read -r kind value; do
        case $kind in
            plain)
                COMPREPLY+=("$value")
                [[ $value == *= ]] && compopt -o nospace
                ;;
            dir) compopt -o dirnames ;;
            file | keyed-file) compopt -o default ;;
        esac
    done < <(env COMP_WORDS="${COMP_WORDS[*]}" COMP_CWORD=$COMP_CWORD %(complete_var)s=bash_complete "$1")
}

complete -o nosort -F %(complete_func)s %(prog_name)s
"""

ZSH = """\
#compdef %(prog_name)s

%(complete_func)s() {
    local -a plain keys described response
    local kind value description program=${~words[1]}
    whence -p -- "$program" >/dev/null || return 1
    response=("${(@f)$(env COMP_WORDS="${words[*]}" COMP_CWORD=$((CURRENT-1)) \\
        %(complete_var)s=zsh_complete "$program")}")
    for kind value description in "${response[@]}"; do
        case $kind in
            plain)
                if [[ $value == *= ]]; then
                    keys+=("$value")
                elif [[ $description == _ ]]; then
                    plain+=("$value")
                else
                    described+=("$value:$description")
                fi
                ;;
            dir) _path_files -/ ;;
            file) _path_files -f ;;
            keyed-file) compset -P 1 '*=' && _path_files -f ;;
        esac
    done
    (( $#described )) && _describe -V unsorted described -U
    (( $#keys )) && compadd -U -S '' -V unsorted -a keys
    (( $#plain )) && compadd -U -V unsorted -a plain
}

if [[ $zsh_eval_context[-1] == loadautofunc ]]; then
    %(complete_func)s "$@"
else
    (( $+functions[compdef] )) || { autoload -Uz compinit && compinit }
    compdef %(complete_func)s %(prog_name)s
fi
"""

FISH = """\
function %(complete_func)s
    for line in (env %(complete_var)s=fish_complete COMP_WORDS=(commandline -cp) COMP_CWORD=(commandline -ct) %(prog_name)s)
        set -l found (string split -m 1 , -- $line)
        switch $found[1]
            case plain
                echo $found[2]
            case dir
                __fish_complete_directories $found[2]
            case file
                __fish_complete_path $found[2]
            case keyed-file
                set -l word (string split -m 1 = -- $found[2])
                for path in (__fish_complete_path $word[2])
                    echo $word[1]=$path
                end
        end
    end
end

complete --no-files --command %(prog_name)s --arguments "(%(complete_func)s)"
"""  # noqa: E501 - a command substitution of fish is one line


def behind_equals(found: list[CompletionItem[str]], begun: str) -> list[CompletionItem[str]]:
    """Completions of what stands behind the first ``=`` of a word, as completions of the whole word."""
    key = begun.partition("=")[0]
    return [
        CompletionItem(
            f"{key}={item.value}", type=KEYED_FILE if item.type in ("file", "dir") else item.type, help=item.help
        )
        for item in found
    ]


class _WholeWords(click.shell_completion.ShellComplete):
    """What all shells have in common: behind ``--option=`` click completes the value alone, and shells the word."""

    def get_completions(self, args: list[str], incomplete: str) -> list[CompletionItem[str]]:
        """Completions of the word that is begun."""
        found = super().get_completions(args, incomplete)
        option, equals, _ = incomplete.partition("=")
        return behind_equals(found, incomplete) if equals and option.startswith("-") else found


@add_completion_class
class Bash(_WholeWords, BashComplete):
    """Bash, which takes what stands before and behind an ``=`` and the ``=`` itself for words."""

    source_template = BASH
    _split = False  # whether the word that is begun stood in several pieces

    def get_completion_args(self) -> tuple[list[str], str]:
        """The words, each as it was typed."""
        words, begun = super().get_completion_args()
        joined: list[str] = []
        for word in (*words, begun):
            self._split = bool(joined) and (word == "=" or (joined[-1].endswith("=") and not word.startswith("-")))
            if self._split:
                joined[-1] += word
            else:
                joined.append(word)
        return joined[:-1], joined[-1]

    def format_completion(self, item: CompletionItem[str]) -> str:
        """A line for the script; of a word in pieces bash replaces the last one alone."""
        value = item.value.partition("=")[2] if self._split else item.value
        return f"{item.type},{value}"


@add_completion_class
class Zsh(_WholeWords, ZshComplete):
    """Zsh."""

    source_template = ZSH


@add_completion_class
class Fish(_WholeWords, FishComplete):
    """Fish."""

    source_template = FISH
