"""Prints the findings and the lists of picklescan, as JSON.

    scanners.py FILE...

    dangerous   names of the files that it rates dangerous
    unsafe      module and name of each entry of its list of dangerous globals; a whole module has the name "main"
    safe        module and name of each entry of its list of safe globals
"""

import json
import pathlib
import sys

import picklescan.scanner


def is_dangerous(path):
    try:
        found = picklescan.scanner.scan_file_path(str(path)).globals
    except Exception:  # picklescan fails on some files; that is not a finding.
        return False
    return any(name.safety == picklescan.scanner.SafetyLevel.Dangerous for name in found)


def pairs(table):
    for module, names in table.items():
        for name in ["main"] if isinstance(names, str) else sorted(names):
            yield [module, name]


def main():
    files = [pathlib.Path(argument) for argument in sys.argv[1:]]
    json.dump(
        {
            "dangerous": [path.name for path in files if is_dangerous(path)],
            "unsafe": list(pairs(picklescan.scanner._unsafe_globals)),
            "safe": list(pairs(picklescan.scanner._safe_globals)),
        },
        sys.stdout,
    )


if __name__ == "__main__":
    main()
