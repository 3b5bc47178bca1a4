"""Run every row of bench/, each script in a process of its own, one after another.

`python bench/run.py [name ...]`. What trains networks runs only by name.
"""

import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
BY_NAME = ("heatmap_variants",)


def main() -> int:
    scripts = [
        p
        for p in sorted(HERE.glob("*.py"))
        if p.stem not in ("run", "common")
        and (p.stem in sys.argv[1:] if sys.argv[1:] else p.stem not in BY_NAME)
    ]
    failed = 0
    for script in scripts:
        print(f"\n## {script.stem}\n", flush=True)
        failed += subprocess.run([sys.executable, str(script)], cwd=HERE.parent).returncode != 0
    print(f"\n{len(scripts) - failed} of {len(scripts)} ran")
    return int(failed > 0 or not scripts)


if __name__ == "__main__":
    sys.exit(main())
