# Types lines into an interactive zsh with completion, presses Tab, and prints what stands on the line then.
# Arguments: a folder with the file _trinart-ckpt, then the lines.
zmodload zsh/zpty
folder=$1
shift
zpty shell zsh -f -i
zpty -w shell "PROMPT= RPROMPT=; fpath=($folder \$fpath); autoload -Uz compinit; compinit -u -d $folder/dump"
zpty -w shell 'show() { print -r -- "<$BUFFER>"; zle kill-whole-line }; zle -N show; bindkey "^X" show; print -r -- "<re""ady>"'
zpty -r shell output '*<ready>*'
for line in "$@"; do
    zpty -w -n shell "$line"$'\t\x18'
    zpty -r shell output '*<*>*'
    print -r -- "${${output##*<}%%>*}"
done
zpty -d shell
