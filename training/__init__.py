"""How the shipped models and their data were made. Nothing at run time imports this package."""
