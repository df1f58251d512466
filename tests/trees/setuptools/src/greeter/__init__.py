GREETING = "from src"
