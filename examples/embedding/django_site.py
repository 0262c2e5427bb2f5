"""Django in one file: `python django_site.py` is the worker, `gunicorn django_site:application` serves.

In a project, the worker is a management command whose `handle` is the last line here, and the handlers are in an app.
Runner processes import this file too, so handlers can use models.
"""

import os

import django
from django.conf import settings
from django.core.wsgi import get_wsgi_application
from django.http import HttpRequest, HttpResponse
from django.urls import path

from gowork.client import Client
from gowork.worker import Worker, handler

if not settings.configured:
    settings.configure(ALLOWED_HOSTS=["127.0.0.1"], ROOT_URLCONF=__name__, SECRET_KEY="an example's")
    django.setup()

client = Client()


@handler
def double(number: int) -> int:
    return 2 * number


def answer(request: HttpRequest, number: int) -> HttpResponse:
    return HttpResponse(client.schedule(number, handler=double).result(int))


urlpatterns = [path("double/<int:number>", answer)]

if __name__ == "__main__":
    Worker(os.environ.get("WORKER_LEADER", "127.0.0.1:50051"), handlers=[double], runners=1).run()
else:
    application = get_wsgi_application()
