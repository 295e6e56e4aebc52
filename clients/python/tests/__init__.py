"""Run them in `clients/python`: python3 -m unittest"""
