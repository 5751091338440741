"""Write docs/reference/settings.md anew from the table of settings."""

from pathlib import Path

from stocktake.settings.reference import settings_reference

PAGE = Path(__file__).resolve().parent.parent / "docs" / "reference" / "settings.md"

if __name__ == "__main__":
    PAGE.write_text(settings_reference(), encoding="utf-8")
    print(f"wrote {PAGE}")
