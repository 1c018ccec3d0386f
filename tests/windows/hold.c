/* usage: hold SHARE FILE: opens a file or folder until its input ends. SHARE has a letter for each thing that other
   programs may do meanwhile: r (read), w (write), d (delete or replace it), or - for none; m maps the file into memory.
   Python's open is `rw`. */
#include <stdio.h>
#include <windows.h>

int wmain(int count, wchar_t **arguments) {
    if (count != 3) return 2;
    DWORD share = 0;
    BOOL map = FALSE;
    for (wchar_t *letter = arguments[1]; *letter; letter++) {
        if (*letter == L'r') share |= FILE_SHARE_READ;
        if (*letter == L'w') share |= FILE_SHARE_WRITE;
        if (*letter == L'd') share |= FILE_SHARE_DELETE;
        if (*letter == L'm') map = TRUE;
    }
    HANDLE file = CreateFileW(arguments[2], GENERIC_READ, share, 0, OPEN_EXISTING, FILE_FLAG_BACKUP_SEMANTICS, 0);
    if (file == INVALID_HANDLE_VALUE) return 1;
    if (map) {
        HANDLE mapping = CreateFileMappingW(file, 0, PAGE_READONLY, 0, 0, 0);
        if (!mapping || !MapViewOfFile(mapping, FILE_MAP_READ, 0, 0, 0)) return 1;
    }
    puts("open");
    fflush(stdout);
    while (getchar() != EOF) {}
    return 0;
}
